"""Adds a part whose rows have a hostile name and a hostile caption, as a stranger with write access could.

Arguments: S3 endpoint, archive URI. The rows are copies of real ones, so that everything else about them is right.
"""

import sys

import boto3
import pyarrow as pa
import pyarrow.parquet as parquet


def main() -> None:
    endpoint, archive = sys.argv[1:]
    bucket, _, root = archive.removeprefix("s3://").partition("/")
    s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket, Prefix=f"{root}/parts/")["Contents"]]
    table = parquet.read_table(pa.BufferReader(s3.get_object(Bucket=bucket, Key=keys[0])["Body"].read()))
    row = table.slice(0, 1)
    hostile = {
        "item": f"s3://{bucket}/%3Cscript%3Ealert%282%29%3C%2Fscript%3E.png".replace("%2F", "%5C"),
        "caption": "<img src=x onerror=alert(1)> \u202e &lt;b&gt; ' \" `",
        "run": "hostile",
        "job": "hostile-0",
    }
    for name, value in hostile.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        row = row.set_column(place, field, pa.array([value], field.type))
    sink = pa.BufferOutputStream()
    parquet.write_table(row, sink, compression="zstd")
    s3.put_object(Bucket=bucket, Key=f"{root}/parts/hostile/hostile-0.parquet", Body=sink.getvalue().to_pybytes())


if __name__ == "__main__":
    main()
