"""The pages and the HTTP API of `gh-assets serve`; the recommendations themselves are made in `serving`."""
