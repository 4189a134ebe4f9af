//! A node of a chain that exists in memory: blocks with a token's transactions in them, and JSON-RPC on top.

use serde_json::{Value, json};
use x402_proxy_wasm::evm::{Address, keccak256};
use x402_proxy_wasm::exchange::{Call, Event};
use x402_proxy_wasm::facilitator::CalloutAnswer;

/// A chain whose last block is the last of `blocks`, the first being number 1000.
#[derive(Default)]
pub struct Node {
    pub blocks: Vec<Block>,
    /// Methods that the node answers with an error.
    pub refuses: Vec<&'static str>,
    /// Blocks by which the node's state lags behind its head.
    pub lag: usize,
    /// Blocks before the last one whose state the node remembers, where not of all.
    pub memory: Option<usize>,
    /// Whether the node has no logs to search, without saying so.
    pub lacks_logs: bool,
    /// Blocks behind the first one that a question for logs may name, where not any.
    pub log_limit: Option<usize>,
    /// The chain that it is of, where that is not Base Sepolia.
    pub chain_id: Option<u64>,
}

/// A block: when it was made, and what happened in it.
#[derive(Default)]
pub struct Block {
    pub timestamp: u64,
    pub transactions: Vec<Transaction>,
}

/// A transaction, and the lines of log that it left.
pub struct Transaction {
    pub hash: String,
    pub has_failed: bool,
    pub logs: Vec<Log>,
}

/// A line of log: who wrote it, what it says.
pub struct Log {
    pub address: String,
    pub topics: Vec<String>,
    pub data: String,
}

const FIRST: usize = 1000;

/// An authorization as a test knows it: the JSON that a client signed.
pub struct Authorized<'a>(pub &'a Value);

impl Authorized<'_> {
    fn word(&self, field: &str) -> String {
        let address: Address = self.0[field].as_str().unwrap().parse().unwrap();
        format!("0x{}", hex::encode(address.to_word()))
    }

    fn event(&self, asset: &str, event: &str) -> Log {
        let nonce = self.0["nonce"].as_str().unwrap().to_owned();
        Log { address: asset.to_lowercase(), topics: vec![topic(event), self.word("from"), nonce], data: "0x".into() }
    }

    pub fn used(&self, asset: &str) -> Log {
        self.event(asset, "AuthorizationUsed(address,bytes32)")
    }

    pub fn cancelled(&self, asset: &str) -> Log {
        self.event(asset, "AuthorizationCanceled(address,bytes32)")
    }

    /// The line of a transfer of `value` in place of the authorization's own, if one is given.
    pub fn transferred(&self, asset: &str, value: Option<u128>) -> Log {
        let value = value.unwrap_or_else(|| self.0["value"].as_str().unwrap().parse().unwrap());
        Log {
            address: asset.to_lowercase(),
            topics: vec![topic("Transfer(address,address,uint256)"), self.word("from"), self.word("to")],
            data: format!("0x{value:064x}"),
        }
    }

    /// The transaction by which the authorization settles.
    pub fn settles(&self, asset: &str, hash: &str) -> Transaction {
        let logs = vec![self.used(asset), self.transferred(asset, None)];
        Transaction { hash: hash.to_owned(), has_failed: false, logs }
    }
}

pub fn topic(event: &str) -> String {
    format!("0x{}", hex::encode(keccak256(event.as_bytes())))
}

impl Node {
    /// A chain of `blocks` empty blocks, the last of them made at `now`.
    pub fn new(blocks: usize, now: u64) -> Self {
        let blocks = (0..blocks).map(|index| Block {
            timestamp: now - 2 * u64::try_from(blocks - 1 - index).unwrap(),
            transactions: Vec::new(),
        });
        Self { blocks: blocks.collect(), ..Self::default() }
    }

    /// The number of the last block.
    pub fn head(&self) -> usize {
        FIRST + self.blocks.len() - 1
    }

    /// When a block was made. Those before the first came every two seconds.
    fn timestamp(&self, block: usize) -> u64 {
        let before = u64::try_from(FIRST.saturating_sub(block)).unwrap();
        self.blocks[block.saturating_sub(FIRST)].timestamp - 2 * before
    }

    /// Adds a block with these transactions.
    pub fn mine(&mut self, timestamp: u64, transactions: Vec<Transaction>) {
        self.blocks.push(Block { timestamp, transactions });
    }

    /// Answers a batch.
    pub fn answer(&self, call: &Call) -> Event {
        let questions: Vec<Value> = serde_json::from_str(&call.body).expect("a batch");
        let mut answers: Vec<Value> = questions.iter().map(|question| self.answer_one(question)).collect();
        // In whatever order it likes.
        answers.reverse();
        Event::Callout(CalloutAnswer::Answered { status: 200, body: json!(answers).to_string().into_bytes() })
    }

    fn answer_one(&self, question: &Value) -> Value {
        let (id, params) = (&question["id"], &question["params"]);
        let method = question["method"].as_str().unwrap();
        let refusal = |message| json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32000, "message": message}});
        if self.refuses.contains(&method) {
            return refusal("no");
        }
        let result = match method {
            "eth_blockNumber" => json!(quantity(self.head())),
            "eth_chainId" => json!(format!("{:#x}", self.chain_id.unwrap_or(84532))),
            "eth_getTransactionReceipt" => self.receipt(&params[0]),
            "eth_call" => {
                let block = number(&params[1]);
                if block > self.head() - self.lag {
                    return refusal("header not found");
                }
                if self.memory.is_some_and(|memory| block + memory < self.head()) {
                    return refusal("missing trie node");
                }
                let data = params[0]["data"].as_str().unwrap();
                assert!(data.starts_with("0xe94a0102"), "authorizationState(address,bytes32)");
                let word = |start| format!("0x{}", data.get(start..start + 64).unwrap());
                let (from, nonce) = (word(10), word(74));
                let is_used = self.logs(0, block).any(|(_, _, log)| {
                    log.address == params[0]["to"].as_str().unwrap().to_lowercase()
                        && log.topics[1..] == [from.clone(), nonce.clone()]
                        && log.topics[0] != topic("Transfer(address,address,uint256)")
                });
                json!(format!("0x{:064x}", u8::from(is_used)))
            }
            "eth_getLogs" => {
                let filter = &params[0];
                let (first, last) = (number(&filter["fromBlock"]), number(&filter["toBlock"]));
                assert!(first <= last, "a range of blocks");
                if self.log_limit.is_some_and(|limit| last - first > limit) {
                    return refusal("block range too large");
                }
                let found = self.logs(first, last).filter(|_| !self.lacks_logs).filter(|(_, _, log)| {
                    let is_of_topic = filter["topics"][0].as_array().unwrap().contains(&json!(log.topics[0]));
                    is_of_topic
                        && log.address == filter["address"].as_str().unwrap().to_lowercase()
                        && json!(log.topics[1]) == filter["topics"][1]
                        && json!(log.topics[2]) == filter["topics"][2]
                });
                found.map(|(block, hash, log)| log_json(block, hash, log)).collect()
            }
            "eth_getBlockByNumber" => {
                let block = number(&params[0]);
                json!({"number": quantity(block), "timestamp": format!("{:#x}", self.timestamp(block)), "transactions": []})
            }
            other => panic!("{other} is asked"),
        };
        json!({"jsonrpc": "2.0", "id": id, "result": result})
    }

    fn receipt(&self, hash: &Value) -> Value {
        for (index, block) in self.blocks.iter().enumerate() {
            if let Some(found) = block.transactions.iter().find(|transaction| json!(transaction.hash) == *hash) {
                let logs: Vec<Value> = found.logs.iter().map(|log| log_json(FIRST + index, &found.hash, log)).collect();
                let logs = if found.has_failed { Vec::new() } else { logs };
                return json!({
                    "transactionHash": hash,
                    "blockNumber": quantity(FIRST + index),
                    "status": if found.has_failed { "0x0" } else { "0x1" },
                    "logs": logs,
                });
            }
        }
        Value::Null
    }

    fn logs(&self, first: usize, last: usize) -> impl Iterator<Item = (usize, &str, &Log)> {
        let (skipped, end) = (first.saturating_sub(FIRST), (last + 1).saturating_sub(FIRST));
        let blocks = self.blocks.iter().enumerate().take(end).skip(skipped);
        blocks.flat_map(|(index, block)| {
            let number = FIRST + index;
            let good = block.transactions.iter().filter(|transaction| !transaction.has_failed);
            good.flat_map(move |one| one.logs.iter().map(move |log| (number, one.hash.as_str(), log)))
        })
    }
}

fn log_json(block: usize, hash: &str, log: &Log) -> Value {
    json!({
        "address": log.address,
        "topics": log.topics,
        "data": log.data,
        "blockNumber": quantity(block),
        "transactionHash": hash,
        "removed": false,
    })
}

fn quantity(number: usize) -> String {
    format!("{number:#x}")
}

fn number(json: &Value) -> usize {
    usize::from_str_radix(json.as_str().unwrap().strip_prefix("0x").unwrap(), 16).unwrap()
}
