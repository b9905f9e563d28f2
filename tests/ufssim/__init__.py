"""An S3 store that fails as told, and writes down everything it applied."""
