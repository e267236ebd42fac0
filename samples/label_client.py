"""Read labels from `streamseg serve`: samples/label_client.py 'http://127.0.0.1:8000/labels'."""

import asyncio
import json
import os
import sys

import aiohttp
import numpy as np


async def main(url: str) -> None:
    token = os.environ.get("STREAMSEG_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else None
    async with aiohttp.ClientSession() as session:
        socket = await session.ws_connect(url, headers=headers, max_msg_size=0)
        async for message in socket:
            content = json.loads(message.data)
            if "hello" in content:
                names = {entry["id"]: entry["name"] for entry in content["hello"]["classes"]}
            if "labels" in content:
                frame = content["labels"]
                ids, lengths = np.array(frame["runs"]).reshape(-1, 2).T
                labels = np.repeat(ids, lengths).reshape(frame["height"], frame["width"])
                found, counts = np.unique(labels, return_counts=True)
                shares = dict(zip(found.tolist(), (counts / labels.size).tolist(), strict=True))
                named = {names.get(label, "none"): share for label, share in shares.items()}
                print(json.dumps({"frame": frame["frame"], "shares": named}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
