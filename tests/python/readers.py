"""Opens the parts of a folder archive with DuckDB, Polars and pyarrow, as they are.

Argument: the archive's folder.
"""

import pathlib
import sys

import duckdb
import polars
import pyarrow.parquet

COLUMNS = [
    "item", "frame_ms", "span_ms", "frames", "sha256", "etag", "width", "height", "status", "error_code", "error_message",
    "attempts", "caption", "answers", "fields", "tokens", "mean_logprob", "stop_reason", "embedding", "embedding_space", "bundle",
    "adapter", "prompt_hash", "duplicate_of", "run", "job", "trace_id", "worker", "device_seconds", "device_joules",
    "started_at", "finished_at",
]  # fmt: skip


def tell(reader: str, columns: list[str], rows: list[tuple[str, str | None, list[float] | None]]) -> None:
    """One line for a reader; `rows` are status, caption and embedding."""
    assert columns == COLUMNS, f"{reader}: {columns}"
    for status, caption, embedding in rows:
        if status == "ok":
            assert caption and embedding is not None, f"{reader}: an ok row without caption or embedding"
            norm = sum(value * value for value in embedding)
            assert 1 < norm < 1000, f"{reader}: these are not unit vectors: {norm}"
        else:
            assert caption is None and embedding is None, f"{reader}: a failed row with an answer"
    ok = sum(status == "ok" for status, _, _ in rows)
    print(f"{reader}: {ok} ok, {len(rows) - ok} failed")


def main() -> None:
    pattern = str(pathlib.Path(sys.argv[1]) / "parts" / "*" / "*.parquet")
    files = sorted(pathlib.Path(sys.argv[1]).glob("parts/*/*.parquet"))

    relation = duckdb.sql(f"select * from read_parquet('{pattern}')")
    tell("duckdb", relation.columns, relation.project("status, caption, embedding").fetchall())

    frame = polars.read_parquet(files)
    tell("polars", frame.columns, [tuple(row) for row in frame.select("status", "caption", "embedding").rows()])

    table = pyarrow.parquet.read_table(files)
    rows = table.select(["status", "caption", "embedding"]).to_pylist()
    tell("pyarrow", table.column_names, [(row["status"], row["caption"], row["embedding"]) for row in rows])


main()
