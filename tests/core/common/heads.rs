//! Configurations under which requests differ that bring no payment, or nothing but a head.

use serde_json::{Value, json};

use super::{FACILITATOR, PAY_TO, Stage, base_config, supported};
use x402_proxy_wasm::facilitator::Supported;

/// A change to the configuration that tests begin with.
pub type Change = fn(&mut Value);

/// The changes, each by itself.
pub const CONFIGS: [(&str, Change); 16] = [
    ("as it is", |_| {}),
    ("shadow", |config| config["mode"] = "shadow".into()),
    ("a route in shadow", |config| config["routes"][0]["mode"] = "shadow".into()),
    ("deny", |config| config["unmatched"] = "deny".into()),
    ("deny in shadow", |config| {
        config["mode"] = "shadow".into();
        config["unmatched"] = "deny".into();
    }),
    ("not discoverable", |config| config["discovery"] = false.into()),
    ("hosts", |config| config["routes"][0]["match"]["hosts"] = json!(["api.example.com"])),
    ("origins", |config| {
        config["origins"] = json!(["https://api.example.com"]);
        config["cors"] = json!({"origins": ["https://app.example"]});
    }),
    ("signed offers", |config| {
        config["origins"] = json!(["https://api.example.com"]);
        config["offer_receipt"] = json!({"key": format!("0x{}", "11".repeat(32))});
    }),
    ("sign-in", |config| config["routes"][0]["extensions"] = json!({"sign_in_with_x": {"lasts": "60s"}})),
    ("free for some", |config| config["defaults"]["free_for"] = json!({"principals": ["a"]})),
    ("several recipients", |config| {
        config["defaults"]["pay_to"] =
            json!({"split": [{"to": PAY_TO, "weight": 1}, {"to": format!("0x{}", "11".repeat(20))}]});
    }),
    ("upto", |config| config["routes"][0]["accepts"] = upto()),
    ("permit2", |config| {
        config["defaults"]["accepts"][0]["transfer_method"] = "permit2".into();
    }),
    ("required names", |config| {
        config["routes"][0]["extensions"] = json!({"payment_identifier": "required"});
    }),
    ("a header is kept", |config| config["keep_headers"] = json!(["x-original-url"])),
];

fn upto() -> Value {
    json!([{"scheme": "upto", "network": "base-sepolia", "asset": "USDC"}])
}

/// Stages with each of them, and facilitators that support less and more than that of other tests.
pub fn stages() -> Vec<Stage> {
    let stage = |(index, (_, change)): (usize, &(&str, Change))| {
        let mut config = base_config();
        change(&mut config);
        let mut stage = Stage::new(&config);
        stage.supported = match index % 3 {
            0 => supported(&[FACILITATOR]),
            1 => Supported::default(),
            _ => Supported { extensions: vec!["eip2612GasSponsoring".to_owned()], ..supported(&[]) },
        };
        stage
    };
    CONFIGS.iter().enumerate().map(stage).collect()
}
