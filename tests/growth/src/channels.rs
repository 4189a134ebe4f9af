//! Channels: what a voucher costs however many channels there are, and the keeper that looks through all of them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::host::{Failure, Filter, Outcome};
use crate::request::Request;

/// Who signs claims.
pub const AUTHORIZER: &str = "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65";

const PAYER: &str = "0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1";

/// The channel that the payer's configuration below names.
pub const ID: &str = "0xfc77474f511edbd02b5a01b8314709f9aad98d3abe77bf449a9304281d303a32";

/// The payer's signatures (secret 01 01 …) of vouchers for 1000, 2000, … of that channel.
const SIGNATURES: [&str; 10] = [
    "0x3019c0fdfc89d70f26ca8353f5704f19a891723b8281790da28e111b7f0ddaa739f983b59a5adddd9e18141381419d6a2f3564ec636bf4c2821685b8b173f0a21b",
    "0xe64f62a755ca2b391185731966a4e296fe2c377e72a0c6c2cdb2e7e1e6f864bf138be18166fdfdc63f4ad4ed964ca58a16d1917d7dcad77956e4ccbe899e49a31c",
    "0x7edeed5331e7648cb6273f6d664eb0eddc0792dba14ca2a25052fce3aefd8c6b12eecac1c3a583985c328cefb96412491fddad3ca8d59bbe9e4b0ac81dde7f5a1c",
    "0xdc792f0ef95f3e81b8bea16bf431544ccd8de810c79386f5c27c3ed1e4592a1a1c9786f5fcf69958b9b83efd17deda0a72b95f64f04af8d80f5235c9f9c133e51c",
    "0x729a2f981d3823d2bc958b55a1e52644fd1caa1631f09bb2567476eb68c7de2a30e2d4baf43e609bfa332d35f058b77356b964dc1d03407a2c284c1016a34ac11b",
    "0xb0821924efd365c455993df5a62ad6fc9776876aec81a56e6f5fd09431cbdc281d8d17a79fe9c253986da0a64d2b934fe33996063b48ba1cf194d683f2becaa81b",
    "0x466290d98948d91f2456d908546345875f8e8fee0e9af1fe071bd250ce3a3d736680e58ec88c1545ba28a714d35f44ffb6f6137d7904e22fe8e4d53a3fe5381d1b",
    "0xf049e016243431f111975fb553f8de135a632fa781c2b3df2302a64075f05c840de43ce396102227c25f14d3f668b930a8caa7a783c048566c2b1b5f073b9aad1c",
    "0xd90b1ed42051a63033a5882faf9802a20b6e96d3ce2f2c8dcf79be4820862a0c550321df4ecdfdd8110cbbf645826ec6afce215d12ec5b10614390c5003506f81b",
    "0x4bf7227ee2e91ae3fbe8735fe464552baba3242fa9ede9588e63a4430c8518a5152ee3574183c3ca7974ea98354690aea04d494ec395199b098026f6d40ca3871b",
];

/// Pages on which channels stand.
const PAGES: usize = 16_384;

/// The factor by which a voucher may cost more among many channels.
const MOST_FACTOR: f64 = 1.1;

/// Instructions of the keeper for one look, of an eighth of all pages, at 100,000 channels: about a quarter more than is known.
const MOST_OF_LOOK: u64 = 545_000_000;

/// An entry of `accepts`.
pub fn accepted() -> Value {
    json!({
        "scheme": "batch-settlement", "network": "eip155:84532", "amount": "1000", "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
        "payTo": "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC", "maxTimeoutSeconds": 300,
        "extra": {"name": "USDC", "version": "2", "receiverAuthorizer": AUTHORIZER, "withdrawDelay": 900, "minDeposit": "10000"},
    })
}

/// The payload of the voucher of this number, from 0.
pub fn voucher(number: usize) -> Value {
    json!({
        "type": "voucher",
        "channelConfig": {
            "payer": PAYER, "payerAuthorizer": PAYER, "receiver": "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
            "receiverAuthorizer": AUTHORIZER, "token": "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "withdrawDelay": 900,
            "salt": format!("0x{}", "00".repeat(32)),
        },
        "voucher": {"channelId": ID, "maxClaimableAmount": (1000 * (number + 1)).to_string(), "signature": SIGNATURES[number]},
    })
}

/// Measures all; what is wrong, of as many cases.
pub fn measure(wasm: &[u8], plugin: &Value, supported: &Value) -> Result<(usize, Vec<String>), Failure> {
    let mut filter = Filter::new(wasm, plugin, supported)?;
    let state = json!({"channelId": ID, "balance": "1000000", "totalClaimed": "0", "withdrawRequestedAt": 0, "refundNonce": "0"});
    filter.verify_by(json!({"isValid": true, "payer": PAYER, "extra": state}).to_string());
    let mut vouchers = (0..SIGNATURES.len()).map(|number| {
        let payment = json!({"x402Version": 2, "accepted": accepted(), "payload": voucher(number)});
        Request::get("/channel").with("payment-signature", STANDARD.encode(payment.to_string()))
    });
    let mut pay = |filter: &mut Filter| -> Result<u64, Failure> {
        let Outcome { status, instructions } = filter.play(&vouchers.next().ok_or("no voucher is left")?)?;
        if status != 200 {
            return Err(format!("a voucher is answered {status}").into());
        }
        Ok(instructions)
    };
    // The channel is not known yet, and then its signer is not.
    for _ in 0..2 {
        pay(&mut filter)?;
    }
    let mut complaints = Vec::new();
    let mut costs = Vec::new();
    for channels in [10, 1_000, 100_000] {
        filter.crowd(ID, channels, PAGES)?;
        costs.push(pay(&mut filter)?.min(pay(&mut filter)?));
    }
    let [few, .., many] = costs[..] else { return Err("nothing was measured".into()) };
    println!("worst voucher: {many} instructions among 100000 channels ({costs:?})");
    if crate::ratio(many, few) > MOST_FACTOR {
        complaints.push(format!("a voucher: {few} instructions among 10 channels, {many} among 100000"));
    }
    let mut looks = Vec::new();
    for channels in [25_000, 50_000, 100_000] {
        filter.crowd(ID, channels, PAGES)?;
        filter.tick()?;
        looks.push(filter.tick()?);
    }
    let [_, half, all] = looks[..] else { return Err("nothing was measured".into()) };
    println!("worst keeper: {all} instructions in a second among 100000 channels ({looks:?})");
    if crate::ratio(all, half) > crate::MOST_GROWTH || all > MOST_OF_LOOK {
        complaints.push(format!("the keeper: {half} instructions among 50000 channels, {all} among 100000"));
    }
    Ok((2, complaints))
}
