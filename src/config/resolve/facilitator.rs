//! Facilitators: one, or several in the order in which they are asked.

use std::sync::Arc;
use std::time::Duration;

use super::network::Networks;
use super::service::{read_timeout, service};
use super::{Result, refuse, require};
use crate::config::Facilitator;
use crate::config::raw;
use crate::config::secret::Environment;
use crate::evm::keccak256;
use crate::facilitator::cdp::CdpKey;
use crate::json::Object;

/// Long enough for a facilitator to wait for a block.
const DEFAULT_FACILITATOR_TIMEOUT: Duration = Duration::from_secs(10);
/// Facilitators at most.
const MAX_FACILITATORS: usize = 16;
const DEFAULT_MAX_FAILURES: u32 = 5;

/// Resolves the facilitators.
#[inline(never)]
pub(super) fn facilitators(
    one: Option<raw::Facilitator>,
    several: Option<Vec<Object<raw::Facilitator>>>,
    networks: &Networks,
    environment: Environment<'_>,
) -> Result<Vec<Facilitator>> {
    let facilitator = |path: &str, raw| facilitator(path, raw, networks, environment);
    match (one, several) {
        (Some(raw), None) => Ok(vec![facilitator("facilitator", raw)?]),
        (None, Some(several)) if several.is_empty() => refuse("facilitators", "is empty; name at least one"),
        (None, Some(several)) if several.len() > MAX_FACILITATORS => {
            refuse("facilitators", format_args!("are more than {MAX_FACILITATORS}"))
        }
        (None, Some(several)) => {
            let is_named: Vec<_> = several.iter().map(|Object(raw)| raw.name.is_some()).collect();
            let several = several.into_iter().enumerate();
            let resolve = |(index, Object(raw))| facilitator(&format!("facilitators[{index}]"), raw);
            let all = several.map(resolve).collect::<Result<Vec<_>>>()?;
            refuse_shared_names(&all, &is_named)?;
            Ok(all)
        }
        (Some(_), Some(_)) => refuse("facilitators", "stands beside facilitator; keep one of the two"),
        (None, None) => refuse(".", "missing field `facilitator` (or facilitators: a list of them)"),
    }
}

/// Refuses a name that somebody gave and that is another facilitator's too: logs and stats would not tell the two apart.
fn refuse_shared_names(all: &[Facilitator], is_named: &[bool]) -> Result<()> {
    let all = || all.iter().map(|one| &one.name).zip(is_named).enumerate();
    for (index, (name, is_given)) in all() {
        let is_shared = |(_, (other, is_other_given)): &(usize, (&String, &bool))| {
            *other == name && (*is_given || **is_other_given)
        };
        if let Some((other, _)) = all().take(index).find(is_shared) {
            return refuse(
                format!("facilitators[{index}].name"),
                format_args!(
                    "is that of facilitators[{other}] too (by default, the name is the cluster's); give each its own"
                ),
            );
        }
    }
    Ok(())
}

#[inline(never)]
fn facilitator(
    path: &str,
    raw: raw::Facilitator,
    networks: &Networks,
    environment: Environment<'_>,
) -> Result<Facilitator> {
    let is_name = |name: &String| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    if !raw.name.iter().all(is_name) {
        return refuse(format!("{path}.name"), "is not of letters, digits, _ and -");
    }
    let timeout = read_timeout(path, raw.timeout.as_deref(), DEFAULT_FACILITATOR_TIMEOUT)?;
    let mut service = service(path, raw.cluster, &raw.url, timeout, &raw.headers, environment)?;
    let called = ["/verify", "/settle", "/supported"];
    if called.iter().any(|call| service.base_path.ends_with(call)) {
        return refuse(
            format!("{path}.url"),
            "is for one call alone: leave out /verify, /settle or /supported at its end",
        );
    }
    if let Some(raw::Auth { cdp }) = &raw.auth {
        require(format!("{path}.auth"), "cdp", cfg!(feature = "cdp"))?;
        if service.headers.iter().any(|(name, _)| name == "authorization") {
            return refuse(
                format!("{path}.headers.authorization"),
                "stands beside auth, which makes this header; keep one",
            );
        }
        service.cdp_key = Some(cdp_key(&format!("{path}.auth.cdp"), cdp, environment)?);
    }
    let mut ids = Vec::with_capacity(raw.networks.len());
    for (index, text) in raw.networks.iter().enumerate() {
        ids.push(networks.id(&format!("{path}.networks[{index}]"), text)?);
    }
    let max_failures = raw.max_failures.map_or(DEFAULT_MAX_FAILURES, |most| u32::try_from(most).unwrap_or(u32::MAX));
    if max_failures == 0 {
        return refuse(
            format!("{path}.max_failures"),
            "is 0; a call has to fail once before the next facilitator is asked",
        );
    }
    Ok(Facilitator {
        name: raw.name.unwrap_or_else(|| service.cluster.clone()),
        service: Arc::new(service),
        networks: ids,
        schemes: raw.schemes,
        max_failures,
        verify: raw.verify,
    })
}

/// Returns a name of facilitators, which no others have.
pub(super) fn identity(facilitators: &[Facilitator]) -> String {
    let identities: Vec<_> = facilitators.iter().map(|one| one.service.identity()).collect();
    hex::encode(keccak256(&identities.concat()))
}

/// Resolves a key of Coinbase's platform.
fn cdp_key(path: &str, raw: &raw::Cdp, environment: Environment<'_>) -> Result<CdpKey> {
    const LONGEST_ID: usize = 256;
    let path_of = |key: &str| format!("{path}.{key}");
    let id = raw.key_id.reveal(&path_of("key_id"), environment)?;
    if !(1..=LONGEST_ID).contains(&id.len()) || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refuse(
            path_of("key_id"),
            format_args!("is not of 1 to {LONGEST_ID} printable characters; copy the key's id from Coinbase's portal"),
        );
    }
    let secret = raw.key_secret.reveal(&path_of("key_secret"), environment)?;
    CdpKey::new(&id, &secret).or_else(|error| refuse(path_of("key_secret"), error))
}
