"""The page and the API: `gh-assets serve`. Answers come from `desk`; nothing here knows how a model works."""
