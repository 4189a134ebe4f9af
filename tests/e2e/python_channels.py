"""Pays by a channel with the official Python client, refunds, forgets, and prints what happened, as JSON.

Usage: python_channels.py httpx|requests STEPS; the payer's private key stands in PAYER_KEY, the channel's salt (0x, 64
digits) in SALT, and where the client is to read its channel from the chain, the node's URL in RPC_URL.

STEPS is a JSON list, done in order by one client:
    {"do": "pay", "url": …, "method": "GET", "body": null}
    {"do": "refund", "url": …, "amount": null}    # atomic units; null: all that is left
    {"do": "forget"}                              # the client loses what it knows of its channels
    {"do": "know", "charged": "…"}                # the client believes that so much was charged, in each channel
A step's result: status and body, the decoded PAYMENT-RESPONSE as `receipt`, an `error` that the client raised, the sums
that the client knows of its channels afterwards as `known`.
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
from x402.mechanisms.evm.batch_settlement.client import (
    BatchSettlementEvmScheme,
    BatchSettlementEvmSchemeOptions,
    InMemoryClientChannelStorage,
    RefundOptions,
)
from x402.mechanisms.evm.signers import EthAccountSignerWithRPC


class Storage(InMemoryClientChannelStorage):
    """What the client knows of its channels, within reach of the steps."""

    def known(self) -> dict:
        return {key: context.to_dict() for key, context in self._channels.items()}

    def forget(self) -> None:
        self._channels.clear()

    def know(self, charged: str) -> None:
        for context in self._channels.values():
            context.charged_cumulative_amount = charged


def plain(model):
    return model and model.model_dump(by_alias=True, mode="json")


def reported(response) -> dict:
    receipt = response.headers.get("payment-response")
    return {
        "status": response.status_code,
        "body": response.text,
        "receipt": receipt and plain(decode_payment_response_header(receipt)),
    }


def aside(step: dict, scheme: BatchSettlementEvmScheme, storage: Storage) -> dict:
    """Does a step that is no payment; both clients do it in the same way."""
    if step["do"] == "forget":
        storage.forget()
        return {}
    if step["do"] == "know":
        storage.know(step["charged"])
        return {}
    answer = scheme.refund(step["url"], RefundOptions(amount=step.get("amount")))
    return {"status": 200, "receipt": plain(answer)}


def made(client, storage: Storage) -> BatchSettlementEvmScheme:
    account = Account.from_key(os.environ["PAYER_KEY"])
    rpc = os.environ.get("RPC_URL")
    signer = EthAccountSignerWithRPC(account, rpc_url=rpc) if rpc else EthAccountSigner(account)
    options = BatchSettlementEvmSchemeOptions(storage=storage, salt=os.environ["SALT"])
    scheme = BatchSettlementEvmScheme(signer, options)
    client.register("eip155:*", scheme)
    return scheme


async def by_httpx(steps: list) -> list:
    client, storage, results = x402Client(), Storage(), []
    scheme = made(client, storage)
    async with x402HttpxClient(client, timeout=30) as http:
        for step in steps:
            try:
                if step["do"] == "pay":
                    result = reported(await http.request(step.get("method", "GET"), step["url"], content=step.get("body")))
                else:
                    result = aside(step, scheme, storage)
            except Exception as error:
                result = {"error": f"{type(error).__name__}: {error}"}
            results.append({**result, "known": storage.known()})
    return results


def by_requests(steps: list) -> list:
    client, storage, results = x402ClientSync(), Storage(), []
    scheme = made(client, storage)
    with x402_requests(client) as session:
        for step in steps:
            try:
                if step["do"] == "pay":
                    result = reported(session.request(step.get("method", "GET"), step["url"], data=step.get("body")))
                else:
                    result = aside(step, scheme, storage)
            except Exception as error:
                result = {"error": f"{type(error).__name__}: {error}"}
            results.append({**result, "known": storage.known()})
    return results


library, steps = sys.argv[1], json.loads(sys.argv[2])
print(json.dumps(asyncio.run(by_httpx(steps)) if library == "httpx" else by_requests(steps)))
