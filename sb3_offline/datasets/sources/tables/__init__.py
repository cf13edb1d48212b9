"""Logs in tables: Parquet, CSV, Arrow, folders of them, and frames of pandas, polars and pyarrow."""
