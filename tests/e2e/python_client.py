"""Pays for a URL with the official Python client (httpx) and prints what it got, as JSON.

Usage: python_client.py METHOD URL [BODY]; the payer's private key stands in PAYER_KEY.
"""

import asyncio
import json
import os
import sys

from eth_account import Account
from x402 import x402Client
from x402.http.clients.httpx import x402HttpxClient
from x402.http.utils import decode_payment_response_header
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.exact import register_exact_evm_client


async def main(method: str, url: str, body: str | None = None) -> None:
    client = x402Client()
    register_exact_evm_client(client, EthAccountSigner(Account.from_key(os.environ["PAYER_KEY"])))
    async with x402HttpxClient(client) as http:
        response = await http.request(method, url, content=body)
        receipt = response.headers.get("payment-response")
        print(
            json.dumps(
                {
                    "status": response.status_code,
                    "body": response.text,
                    "receipt": receipt and decode_payment_response_header(receipt).model_dump(by_alias=True),
                    "cache_control": response.headers.get("cache-control"),
                }
            )
        )


asyncio.run(main(*sys.argv[1:]))
