"""Pays for a URL with the last official Python client of version 1 and prints what it got, as JSON.

Usage: python_client_v1.py httpx|requests METHOD URL [BODY]; the payer's private key stands in PAYER_KEY.
"""

import asyncio
import base64
import json
import os
import sys

from eth_account import Account
from x402.clients.httpx import x402HttpxClient
from x402.clients.requests import x402_requests


def report(status: int, body: str, headers) -> None:
    decoded = lambda name: headers.get(name) and json.loads(base64.b64decode(headers[name]))
    print(
        json.dumps(
            {
                "status": status,
                "body": body,
                "receipt": decoded("payment-response"),
                "receipt_v1": decoded("x-payment-response"),
                "cache_control": headers.get("cache-control"),
            }
        )
    )


async def by_httpx(account, method: str, url: str, body: str | None) -> None:
    async with x402HttpxClient(account=account, base_url=url) as http:
        response = await http.request(method, "", content=body)
        report(response.status_code, (await response.aread()).decode(), response.headers)


def by_requests(account, method: str, url: str, body: str | None) -> None:
    response = x402_requests(account).request(method, url, data=body)
    report(response.status_code, response.text, response.headers)


def main(library: str, method: str, url: str, body: str | None = None) -> None:
    account = Account.from_key(os.environ["PAYER_KEY"])
    if library == "httpx":
        asyncio.run(by_httpx(account, method, url, body))
    else:
        by_requests(account, method, url, body)


main(*sys.argv[1:])
