"""Publishes one caption job from the documented schema (proto/README.md) and reads the rows that come of it.

Arguments: broker URI, queue prefix, S3 endpoint, archive URI, folder of pictures.
"""

import json
import pathlib
import sys
import time
import uuid

import boto3
import pika
import pyarrow.parquet
import pyarrow as pa


def main() -> None:
    broker, prefix, endpoint, archive, folder = sys.argv[1:]
    run, job = f"python-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    pictures = sorted(pathlib.Path(folder).resolve().iterdir())
    message = {
        "version": "1.0",
        "id": job,
        "run": run,
        "archive": archive,
        "kind": "caption",
        "prompt": {"task": "caption"},
        "items": [{"uri": picture.as_uri()} for picture in pictures],
    }
    outcome = publish_and_wait(broker, prefix, message)
    assert outcome["job"] == job and outcome["run"] == run, outcome
    assert outcome["ok"] == len(pictures), outcome

    bucket, _, root = archive.removeprefix("s3://").partition("/")
    s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    part = s3.get_object(Bucket=bucket, Key=f"{root}/parts/{run}/{job}.parquet")["Body"].read()
    rows = pyarrow.parquet.read_table(pa.BufferReader(part)).to_pylist()
    assert [row["item"] for row in rows] == [picture.as_uri() for picture in pictures]
    assert all(row["status"] == "ok" and row["caption"] and len(row["embedding"]) > 0 for row in rows), rows
    print(f"{len(rows)} rows ok")


def publish_and_wait(broker: str, prefix: str, message: dict) -> dict:
    """The outcome of one job, which the worker sends to a queue of ours."""
    connection = pika.BlockingConnection(pika.URLParameters(broker))
    channel = connection.channel()
    wait_for_queue(connection, f"{prefix}.bulk")
    replies = channel.queue_declare("", exclusive=True).method.queue
    channel.confirm_delivery()
    channel.basic_publish(
        exchange="",
        routing_key=f"{prefix}.bulk",
        body=json.dumps(message),
        properties=pika.BasicProperties(
            content_type="application/json", delivery_mode=2, message_id=message["id"], reply_to=replies
        ),
        mandatory=True,
    )
    for _, _, body in channel.consume(replies, auto_ack=True, inactivity_timeout=120):
        assert body is not None, "no outcome within two minutes"
        connection.close()
        return json.loads(body)
    raise AssertionError("the queue of outcomes was closed")


def wait_for_queue(connection: pika.BlockingConnection, queue: str) -> None:
    """The worker declares the queues when it starts."""
    deadline = time.monotonic() + 60
    while True:
        channel = connection.channel()
        try:
            channel.queue_declare(queue, passive=True)
            return
        except pika.exceptions.ChannelClosedByBroker:
            assert time.monotonic() < deadline, f"{queue} was never declared"
            time.sleep(0.2)


main()
