//! Answers of nodes. That money has moved, or never will, is concluded only from what proves it.
//!
//! An input is a byte for the question and the transfer, one for the confirmations that count, and the body.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use x402_proxy_wasm::chain::search::{Moment, Sight, Window};
use x402_proxy_wasm::chain::{Fate, Inquiry, Progress, Transfer, Unclear, Void};
use x402_proxy_wasm::config::{Rpc, Service};
use x402_proxy_wasm::evm::{Nonce, TransactionHash, keccak256};
use x402_proxy_wasm::facilitator::CalloutAnswer;
use x402_proxy_wasm::money::Amount;
use x402_proxy_wasm::time::UnixTime;
use x402_proxy_wasm::x402::requirement::TransferMethod;

use crate::common::{NOW, PAY_TO, TRANSACTION, USDC, Wallet};
use crate::json::Json;

/// The transfer that is asked for: that of the first payment of the first wallet.
static TRANSFER: LazyLock<Transfer> = LazyLock::new(|| Transfer {
    method: TransferMethod::Eip3009,
    asset: USDC.parse().expect("an address"),
    from: Wallet::new(1).address(),
    to: PAY_TO.parse().expect("an address"),
    value: Amount::from(VALUE),
    is_at_most: false,
    nonce: Nonce::from_bytes([1; 32]),
    valid_before: UnixTime::from_secs(VALID_BEFORE).into(),
    since: UnixTime::from_secs(NOW),
    searched_to: None,
});

const VALUE: u64 = 1000;

const VALID_BEFORE: u64 = NOW + 300;

/// The last block, where the question was put together with one.
const HEAD: u64 = 1005;

/// The block of the transfer, where it is known.
const BLOCK: u64 = 1004;

pub(super) fn run(input: &[u8]) {
    let [question, confirmations, body @ ..] = input else { return };
    let named: TransactionHash = TRANSACTION.parse().expect("a hash");
    let inquiry = match question % 8 {
        // Of Permit2's nonces there are no logs to be searched.
        2 | 3 | 5 if question / 32 > 0 && question / 8 % 4 < 2 => older(question % 8, question / 32),
        0 => Inquiry::Head(None),
        1 => Inquiry::Head(Some(named)),
        2 | 3 => Inquiry::Nonce(HEAD),
        // Of Permit2's nonces there are no logs that would lead to a receipt.
        4 | 5 if question / 8 % 4 < 2 => Inquiry::Receipt(HEAD, named),
        4 | 5 => return,
        other => Inquiry::Time(named, BLOCK, other == 6),
    };
    let (method, is_at_most) = match question / 8 % 4 {
        0 | 1 => (TransferMethod::Eip3009, false),
        2 => (TransferMethod::Permit2, false),
        _ => (TransferMethod::Permit2, true),
    };
    let transfer = Transfer { method, is_at_most, ..*TRANSFER };
    let confirmations = u64::from(confirmations % 8).max(1);
    let service = Service {
        cluster: "chain".to_owned(),
        scheme: "http".to_owned(),
        authority: "chain".to_owned(),
        base_path: String::new(),
        timeout: Duration::from_secs(1),
        headers: Vec::new(),
        cdp_key: None,
    };
    let rpc = Rpc {
        chain_id: 84532,
        service: Arc::new(service),
        confirmations,
        log_range: if *question < 32 { 1800 } else { 100 },
    };
    let answer = CalloutAnswer::Answered { status: 200, body: of_this_chain(body) };
    let progress = inquiry.step(&transfer, &rpc, &answer);
    let Some(replies) = Json::parse(body) else {
        assert!(matches!(progress, Progress::Done(Fate::Unclear(_))), "what is not JSON proves nothing");
        return;
    };
    let node = Replies { replies, transfer, confirmations };
    match progress {
        Progress::Ask(next) => node.check_next(inquiry, next),
        Progress::Done(fate) => node.check_fate(inquiry, fate),
    }
    // Whatever goes wrong before the node is heard proves nothing.
    let broken = CalloutAnswer::Answered { status: 500, body: body.to_vec() };
    for answer in [CalloutAnswer::Lost, CalloutAnswer::NotSent, broken] {
        assert!(matches!(inquiry.step(&transfer, &rpc, &answer), Progress::Done(Fate::Unclear(_))));
    }
}

/// A question about older blocks than the last ones; with so many more to follow.
fn older(question: u8, left: u8) -> Inquiry {
    let left = u64::from(left);
    let moment = |block, seconds| Some(Moment { block, time: UnixTime::from_secs(NOW + seconds) });
    match question {
        2 => Inquiry::Sight(Sight { head: HEAD, at: BLOCK, earlier: None, later: None, left }),
        3 => {
            let (earlier, later) = (moment(3, 0).filter(|_| left % 2 == 0), moment(HEAD, 100));
            Inquiry::Sight(Sight { head: HEAD, at: BLOCK, earlier, later, left })
        }
        _ => Inquiry::Logs(Window { head: HEAD, from: 1, left }),
    }
}

fn topic(event: &str) -> String {
    format!("0x{}", hex::encode(keccak256(event.as_bytes())))
}

fn padded(hex: &str) -> String {
    format!("0x{:0>64}", hex.trim_start_matches("0x").to_ascii_lowercase())
}

fn quantity(text: Option<&str>) -> Option<u64> {
    u64::from_str_radix(text?.strip_prefix("0x")?, 16).ok()
}

/// A line of the token's log.
fn is_of_token(log: &&Json) -> bool {
    log.text("address").is_some_and(|address| address.eq_ignore_ascii_case(USDC))
}

/// The token's lines in a receipt.
fn logs_of(receipt: &Json) -> Vec<&Json> {
    receipt.get("logs").map(Json::list).unwrap_or_default().iter().filter(is_of_token).collect()
}

fn topics(log: &Json) -> Vec<String> {
    let topics = log.get("topics").map(Json::list).unwrap_or_default();
    let text = |topic: &Json| if let Json::Text(text) = topic { text.to_ascii_lowercase() } else { String::new() };
    topics.iter().map(text).collect()
}

/// Whether a line of the log tells of an event of this payer's and this nonce.
fn tells(log: &Json, event: &str) -> bool {
    topics(log) == [topic(event), padded(&TRANSFER.from.to_string()), TRANSFER.nonce.to_string()]
}

fn uses(log: &Json) -> bool {
    tells(log, "AuthorizationUsed(address,bytes32)")
}

/// What a node said, searched for proofs without any order.
struct Replies {
    replies: Json,
    transfer: Transfer,
    confirmations: u64,
}

impl Replies {
    /// What the node replied to a question without complaint; several where it cannot make up its mind.
    fn results(&self, id: &'static str) -> impl Iterator<Item = &Json> {
        let replies = self.replies.list().iter();
        let is_asked = move |reply: &&Json| matches!(reply.get("id"), Some(Json::Number(number)) if number == id);
        replies.filter(is_asked).filter(|reply| reply.get("error").is_none()).filter_map(|reply| reply.get("result"))
    }

    fn texts(&self, id: &'static str) -> impl Iterator<Item = &str> {
        self.results(id).filter_map(|result| if let Json::Text(text) = result { Some(text.as_str()) } else { None })
    }

    /// The last block, which the node tells where nobody told it.
    fn heads(&self, inquiry: Inquiry) -> Vec<u64> {
        match inquiry {
            Inquiry::Head(_) => self.texts("1").filter_map(|head| quantity(Some(head))).collect(),
            Inquiry::Nonce(head) | Inquiry::Receipt(head, _) => vec![head],
            Inquiry::Sight(Sight { head, .. }) | Inquiry::Logs(Window { head, .. }) => vec![head],
            Inquiry::Time(..) => Vec::new(),
        }
    }

    fn is_confirmed(&self, inquiry: Inquiry, block: Option<u64>) -> bool {
        let behind = self.confirmations - 1;
        block.is_some_and(|block| self.heads(inquiry).iter().any(|head| block <= head.saturating_sub(behind)))
    }

    /// Receipts of a transaction that was carried out.
    fn receipts(&self, hash: TransactionHash) -> impl Iterator<Item = &Json> {
        self.results("2").filter(move |receipt| {
            let named = receipt.text("transactionHash");
            let is_it = named.is_some_and(|text| text.eq_ignore_ascii_case(&hash.to_string()));
            is_it && quantity(receipt.text("status")) == Some(1)
        })
    }

    /// Whether a line of the log tells that the money moved.
    fn moves(&self, log: &Json) -> bool {
        let parties = [padded(&TRANSFER.from.to_string()), padded(&TRANSFER.to.to_string())];
        let [from, to] = parties;
        let amount = log.text("data").filter(|data| data.len() == 66).and_then(|data| quantity(Some(data)));
        let is_enough = |amount| match self.transfer.is_at_most {
            true => (1..=VALUE).contains(&amount),
            false => amount == VALUE,
        };
        topics(log) == [topic("Transfer(address,address,uint256)"), from, to] && amount.is_some_and(is_enough)
    }

    /// Whether a receipt shows the transfer: right behind the use of its nonce, where the token logs that.
    fn shows(&self, receipt: &Json) -> bool {
        let logs = logs_of(receipt);
        match self.transfer.method {
            TransferMethod::Eip3009 => logs.windows(2).any(|pair| uses(pair[0]) && self.moves(pair[1])),
            TransferMethod::Permit2 => logs.into_iter().any(|log| self.moves(log)),
        }
    }

    /// The times of a block, as the node tells them.
    fn times(&self, block: u64) -> impl Iterator<Item = u64> {
        let blocks = self.results("5").filter(move |one| quantity(one.text("number")) == Some(block));
        blocks.filter_map(|block| quantity(block.text("timestamp")))
    }

    fn check_fate(&self, inquiry: Inquiry, fate: Fate) {
        let is_token = self.transfer.method == TransferMethod::Eip3009;
        let confirms = |log: &Json| self.is_confirmed(inquiry, quantity(log.text("blockNumber")));
        match (fate, inquiry) {
            (Fate::Settled(hash) | Fate::Unconfirmed(hash), Inquiry::Time(named, block, is_confirmed)) => {
                assert_eq!((hash, matches!(fate, Fate::Settled(_))), (named, is_confirmed));
                assert!(self.times(block).any(|time| time.saturating_add(15) >= NOW), "it settled for somebody else");
            }
            (Fate::Void(Void::SettledEarlier), Inquiry::Time(_, block, is_confirmed)) => {
                assert!(
                    is_confirmed && self.times(block).any(|time| time + 15 < NOW),
                    "settled earlier without a proof"
                );
            }
            (Fate::Void(Void::SettledEarlier), Inquiry::Sight(sight)) => {
                assert!(self.is_confirmed(inquiry, Some(sight.at)), "settled in a block that may be replaced");
                assert!(self.times(sight.at).any(|time| time + 15 < NOW), "settled earlier without a proof");
                assert!(self.texts("3").any(|word| quantity(Some(word)) == Some(1)), "the nonce is not shown used");
            }
            (Fate::Unclear(Unclear::OutOfRange { searched_to }), _) => {
                assert!(searched_to.is_none_or(|block| self.is_confirmed(inquiry, Some(block))));
            }
            (Fate::Void(Void::Expired), Inquiry::Nonce(head)) => self.check_expired(head),
            (Fate::Void(Void::Cancelled), Inquiry::Nonce(_) | Inquiry::Logs(_)) => {
                let is_proof = |log: &&Json| tells(log, "AuthorizationCanceled(address,bytes32)") && confirms(log);
                assert!(is_token && self.logs().iter().any(is_proof), "cancelled without a proof");
            }
            (Fate::Void(Void::UsedOtherwise), Inquiry::Receipt(_, hash)) => {
                let mut receipts = self.receipts(hash);
                let proof =
                    receipts.find(|one| confirms(one) && logs_of(one).into_iter().any(uses) && !self.shows(one));
                assert!(is_token && proof.is_some(), "used otherwise without a proof");
            }
            (Fate::Open, Inquiry::Nonce(_)) | (Fate::Unclear(_), _) => {}
            _ => panic!("{fate:?} in answer to {inquiry:?}"),
        }
    }

    /// The token's lines of log that stand.
    fn logs(&self) -> Vec<&Json> {
        let logs = self.results("4").flat_map(Json::list).filter(is_of_token);
        logs.filter(|log| log.get("removed") != Some(&Json::Bool(true))).collect()
    }

    fn check_expired(&self, head: u64) {
        let is_unused = |word: &str| {
            let digits = word.strip_prefix("0x").filter(|digits| digits.len() == 64).unwrap_or_default();
            // The nonce's last byte is 1, and so is its place in the word of Permit2's bits.
            match (self.transfer.method, digits.chars().last().and_then(|digit| digit.to_digit(16))) {
                (TransferMethod::Eip3009, Some(_)) => digits.bytes().all(|digit| digit == b'0'),
                (TransferMethod::Permit2, Some(last)) => last & 2 == 0,
                _ => false,
            }
        };
        assert!(self.texts("3").any(is_unused), "expired, and the nonce is not shown unused");
        if self.transfer.method == TransferMethod::Eip3009 {
            let is_searched = self.results("4").any(|logs| matches!(logs, Json::List(_)));
            assert!(
                is_searched && self.logs().is_empty(),
                "expired, and the logs were not searched or tell of the nonce"
            );
        }
        let first_too_late = match self.transfer.method {
            TransferMethod::Eip3009 => VALID_BEFORE,
            TransferMethod::Permit2 => VALID_BEFORE + 1,
        };
        let confirmed = head - (self.confirmations - 1);
        assert!(self.times(confirmed).any(|time| time >= first_too_late), "expired before its time");
    }

    fn check_next(&self, inquiry: Inquiry, next: Inquiry) {
        match (inquiry, next) {
            (Inquiry::Head(_), Inquiry::Nonce(head)) => assert!(self.heads(inquiry).contains(&head), "a made-up block"),
            (Inquiry::Head(Some(hash)) | Inquiry::Receipt(_, hash), Inquiry::Time(same, block, is_confirmed)) => {
                assert_eq!(hash, same, "another transaction");
                let is_it =
                    |receipt: &&Json| self.shows(receipt) && quantity(receipt.text("blockNumber")) == Some(block);
                assert!(self.receipts(hash).any(|receipt| is_it(&receipt)), "a settlement that no receipt shows");
                assert!(!is_confirmed || self.is_confirmed(inquiry, Some(block)), "too few blocks");
            }
            (Inquiry::Nonce(head), Inquiry::Sight(Sight { head: same, .. })) => {
                assert_eq!(head, same, "the last block changes")
            }
            (Inquiry::Sight(sight), Inquiry::Sight(next)) => {
                assert_eq!((next.head, next.left), (sight.head, sight.left - 1), "questions are counted");
                assert!(next.at < sight.later.map_or(HEAD, |moment| moment.block), "the search comes nearer");
            }
            (Inquiry::Sight(Sight { left, .. }), Inquiry::Logs(next)) => assert_eq!(next.left, left - 1),
            (Inquiry::Logs(window), Inquiry::Logs(next)) => {
                assert!(next.from > window.from && next.left < window.left, "the search goes on");
            }
            (Inquiry::Nonce(head) | Inquiry::Logs(Window { head, .. }), Inquiry::Receipt(same, hash)) => {
                assert_eq!(head, same, "the last block changes within an inquiry");
                let is_named = |log: &&&Json| {
                    log.text("transactionHash").is_some_and(|text| text.eq_ignore_ascii_case(&hash.to_string()))
                };
                let is_proof = self.logs().iter().filter(is_named).any(|log| uses(log));
                let is_token = self.transfer.method == TransferMethod::Eip3009;
                assert!(is_token && is_proof, "a transaction that no log names");
                assert_eq!(
                    self.transfer.method,
                    TransferMethod::Eip3009,
                    "the token knows nothing of Permit2's nonces"
                );
            }
            _ => panic!("{next:?} after {inquiry:?}"),
        }
    }
}

/// The replies of a node, and its word that it is one of the right chain, without which nothing else is read.
fn of_this_chain(body: &[u8]) -> Vec<u8> {
    match body.strip_prefix(b"[") {
        Some(rest) if rest.trim_ascii_start().starts_with(b"]") => [br#"[{"id":7,"result":"0x14a34"}"#, rest].concat(),
        Some(rest) => [br#"[{"id":7,"result":"0x14a34"},"#, rest].concat(),
        None => body.to_vec(),
    }
}
