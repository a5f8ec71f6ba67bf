"""Pages to rows: decode by the models, settle precedence, write in batches."""
