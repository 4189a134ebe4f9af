//! A contender: `x402-axum` in front of an upstream, as a gateway of its own, or as the service that Envoy's `ext_authz`
//! asks. It takes one core, so its runtime has one thread.
//!
//! `bench-axum PORT FACILITATOR_URL proxy|authorize after|before UPSTREAM_URL`

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use x402_axum::X402Middleware;
use x402_types::proto::v2::{PaymentRequirements, PriceTag};

type Failure = Box<dyn std::error::Error>;

#[derive(Clone)]
struct Upstream {
    client: Client<HttpConnector, Body>,
    url: String,
}

async fn forward(State(upstream): State<Upstream>, mut request: Request) -> Response {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let Ok(uri) = format!("{}{path}", upstream.url).parse::<Uri>() else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    *request.uri_mut() = uri;
    match upstream.client.request(request).await {
        Ok(response) => response.map(Body::new),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

/// The terms that every contender asks for.
fn price() -> Result<PriceTag, Failure> {
    Ok(PriceTag {
        requirements: PaymentRequirements {
            scheme: "exact".to_owned(),
            network: "eip155:84532".parse()?,
            amount: "1000".to_owned(),
            pay_to: "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC".to_owned(),
            max_timeout_seconds: 300,
            asset: "0x036CbD53842c5426634e7929541eC2318f3dCF7e".to_owned(),
            extra: Some(serde_json::json!({"name": "USDC", "version": "2"})),
        },
        enricher: None,
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [port, facilitator, role, settle, url] = arguments.as_slice() else { return Err("five arguments".into()) };
    let x402 = X402Middleware::try_new(facilitator)?;
    let x402 = if settle == "before" { x402.settle_before_execution() } else { x402 };
    let layer = x402
        .with_price_tag(price()?)
        .with_description("Weather data".to_owned())
        .with_mime_type("application/json".to_owned());
    let upstream = Upstream { client: Client::builder(TokioExecutor::new()).build_http(), url: url.clone() };
    let priced = match role.as_str() {
        "proxy" => any(forward),
        "authorize" => any(|| async { StatusCode::OK }),
        other => return Err(format!("no such role: {other}").into()),
    };
    let app = Router::new().route("/weather", priced.layer(layer)).fallback(forward).with_state(upstream);
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    Ok(axum::serve(axum::serve::ListenerExt::tap_io(listener, |socket| drop(socket.set_nodelay(true))), app).await?)
}
