//! Prints the answer that a browser gets where a payment is due, for work on the page and for its tests:
//!
//! `echo '{"config": {…}, "route": 0, "url": "http://localhost/weather", "method": "GET"}' | cargo run --example page`
//!
//! prints `{"headers": [[name, value], …], "body": …}`, with the terms of the route of that index.
//! `template` may hold a page of one's own.

#![allow(clippy::print_stdout, reason = "a program of its own")]

use std::io::{Read, stdin};

use serde::Deserialize;
use serde_json::value::RawValue;
use x402_proxy_wasm::config::Config;
use x402_proxy_wasm::page::{self, PageData, Template, Way};
use x402_proxy_wasm::x402::header;
use x402_proxy_wasm::x402::terms::to_header;

#[derive(Deserialize)]
struct Asked {
    config: Box<RawValue>,
    route: usize,
    url: String,
    method: String,
    template: Option<String>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut text = String::new();
    stdin().read_to_string(&mut text)?;
    let asked: Asked = serde_json::from_str(&text)?;
    let config = Config::from_json(asked.config.get().as_bytes())?;
    let route = config.routes.get(asked.route).ok_or("there is no such route")?;
    let terms = route.terms.as_ref().ok_or("that route is free")?;
    let ways: Vec<Way<'_>> =
        terms.offers.iter().map(|offer| Way::new(&offer.requirement, offer.dollar_decimals)).collect();
    let error = "Payment required";
    let resource = terms.resource(&asked.url);
    let accepts: Vec<_> = ways.iter().map(|way| way.requirement).collect();
    let required = to_header(error, resource, &accepts, None);
    let json = String::from_utf8(header::decode(required.as_bytes())?)?;
    let (description, url, method) = (&terms.description, &asked.url, &asked.method);
    let data = PageData { terms: &json, ways: &ways, description, url, method, error };
    let page = match asked.template {
        Some(template) => page::render_custom(&Template::parse(template)?, None, &data),
        None => page::render(&data),
    };
    let mut headers = page.headers().map(|(name, value)| (name, value.to_owned())).to_vec();
    headers.push((header::PAYMENT_REQUIRED, required));
    println!("{}", serde_json::json!({ "headers": headers, "body": page.html }));
    Ok(())
}
