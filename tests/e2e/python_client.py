"""Pays for a URL with the official Python client and prints what it got, as JSON.

Usage: python_client.py httpx|requests METHOD URL [BODY]; the payer's private key stands in PAYER_KEY.
"""

import asyncio
import json
import os
import sys

from eth_account import Account
from x402 import x402Client, x402ClientSync
from x402.http.clients.httpx import x402HttpxClient
from x402.http.clients.requests import x402_requests
from x402.http.utils import decode_payment_response_header
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.exact import register_exact_evm_client


def report(status: int, body: str, headers) -> None:
    receipt = headers.get("payment-response")
    print(
        json.dumps(
            {
                "status": status,
                "body": body,
                "receipt": receipt and decode_payment_response_header(receipt).model_dump(by_alias=True),
                "receipt_v1": headers.get("x-payment-response"),
                "cache_control": headers.get("cache-control"),
            }
        )
    )


async def by_httpx(signer: EthAccountSigner, method: str, url: str, body: str | None) -> None:
    client = x402Client()
    register_exact_evm_client(client, signer)
    async with x402HttpxClient(client) as http:
        response = await http.request(method, url, content=body)
        report(response.status_code, response.text, response.headers)


def by_requests(signer: EthAccountSigner, method: str, url: str, body: str | None) -> None:
    client = x402ClientSync()
    register_exact_evm_client(client, signer)
    with x402_requests(client) as session:
        response = session.request(method, url, data=body)
        report(response.status_code, response.text, response.headers)


def main(library: str, method: str, url: str, body: str | None = None) -> None:
    signer = EthAccountSigner(Account.from_key(os.environ["PAYER_KEY"]))
    if library == "httpx":
        asyncio.run(by_httpx(signer, method, url, body))
    else:
        by_requests(signer, method, url, body)


main(*sys.argv[1:])
