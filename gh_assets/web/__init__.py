"""The page and the API: `gh-assets serve`. Answers come from `snapshot`; nothing here knows how a model works."""
