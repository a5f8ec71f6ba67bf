"""The bundled systems, one folder each: models, source.toml, queries. They import only `ingest.mirror`."""
