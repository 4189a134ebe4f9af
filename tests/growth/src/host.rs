//! The filter as it is released, on a host that does no more than it must and counts the instructions that it runs.
//!
//! They are WebAssembly's, and an upper bound: those of a loop are counted whole each time around, whatever branch is taken.
//! What is copied or filled counts one for 64 bytes. The same in each run.

use std::collections::{BTreeMap, VecDeque};

use wasmi::{
    Caller, CompilationMode, Config, Engine, Extern, Func, Instance, Linker, Memory, Module, Store, TypedFunc,
};

use crate::request::Request;

const OK: u32 = 0;
const NOT_FOUND: u32 = 1;
const CAS_MISMATCH: u32 = 8;

/// The context of the plugin.
const ROOT: u32 = 1;
/// The clock, in seconds since the epoch. It stands still, but for what passes for the worker.
pub const NOW: u64 = 1_790_000_000;
/// More than anything here may take.
const FUEL: u64 = 1 << 60;

/// What is wrong with a run ends it.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Default)]
struct State {
    memory: Option<Memory>,
    malloc: Option<TypedFunc<u32, u32>>,
    headers: BTreeMap<u32, Vec<u8>>,
    buffers: BTreeMap<u32, Vec<u8>>,
    shared: BTreeMap<Vec<u8>, (Vec<u8>, u32)>,
    /// Tokens of callouts, with the path of each.
    callouts: VecDeque<(u32, Vec<u8>)>,
    tokens: u32,
    /// What the facilitator says to `/verify`; no where it is not given.
    verification: Option<String>,
    /// Seconds that have passed for the worker.
    passed: u64,
    replied: Option<u32>,
    forwarded: bool,
    complaints: Vec<String>,
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The status that the client sees; 200 where the request went on.
    pub status: u32,
    /// Instructions of the filter, from the request's head to its end.
    pub instructions: u64,
}

/// The filter, configured.
pub struct Filter {
    store: Store<State>,
    instance: Instance,
    streams: u32,
    /// Bytes of a channel's record, once they are known.
    record: Option<usize>,
}

fn memory(caller: &Caller<'_, State>) -> Memory {
    caller.data().memory.expect("the module has a memory")
}

fn read(caller: &Caller<'_, State>, at: u32, length: u32) -> Vec<u8> {
    let at = usize::try_from(at).expect("an address");
    let bytes = &memory(caller).data(caller)[at..];
    bytes[..usize::try_from(length).expect("a length")].to_vec()
}

fn write(caller: &mut Caller<'_, State>, at: u32, bytes: &[u8]) {
    memory(caller).write(caller, usize::try_from(at).expect("an address"), bytes).expect("a place in memory");
}

/// Hands bytes to the module, in memory of its own.
fn hand(caller: &mut Caller<'_, State>, bytes: &[u8], data: u32, length: u32) -> u32 {
    let size = u32::try_from(bytes.len()).expect("a length");
    let malloc = caller.data().malloc.expect("the module has an allocator");
    let at = malloc.call(&mut *caller, size).expect("memory");
    write(caller, at, bytes);
    write(caller, data, &at.to_le_bytes());
    write(caller, length, &size.to_le_bytes());
    OK
}

impl Filter {
    /// Loads the module and configures it.
    pub fn new(wasm: &[u8], plugin: &serde_json::Value, supported: &serde_json::Value) -> Result<Self, Failure> {
        let mut config = Config::default();
        config.consume_fuel(true);
        // Else what is run for the first time would be counted with its translation.
        config.compilation_mode(CompilationMode::Eager);
        let engine = Engine::new(&config);
        let module = Module::new(&engine, wasm)?;
        let mut store = Store::new(&engine, State::default());
        store.set_fuel(FUEL)?;
        let mut linker = Linker::new(&engine);
        link(&mut store, &mut linker)?;
        for import in module.imports() {
            // Whatever the tests do not need says that all is well.
            let (namespace, name) = (import.module(), import.name());
            if let (None, Some(kind)) = (linker.get(&store, namespace, name), import.ty().func()) {
                let fine = Func::new(&mut store, kind.clone(), |_, _, results| {
                    results.iter_mut().for_each(|result| *result = wasmi::Val::I32(0));
                    Ok(())
                });
                linker.define(namespace, name, fine)?;
            }
        }
        let instance = linker.instantiate_and_start(&mut store, &module)?;
        store.data_mut().memory = instance.get_export(&store, "memory").and_then(Extern::into_memory);
        store.data_mut().malloc = Some(instance.get_typed_func(&store, "malloc")?);
        let configuration = plugin.to_string().into_bytes();
        let size = u32::try_from(configuration.len())?;
        store.data_mut().buffers.insert(7, configuration);
        let mut filter = Self { store, instance, streams: ROOT, record: None };
        filter.call::<(), ()>("_initialize", ())?;
        filter.call::<_, ()>("proxy_on_context_create", (ROOT, 0_u32))?;
        filter.call::<_, u32>("proxy_on_vm_start", (ROOT, 0_u32))?;
        if filter.call::<_, u32>("proxy_on_configure", (ROOT, size))? != 1 {
            return Err(format!("the configuration was refused: {:?}", filter.store.data().complaints).into());
        }
        filter.call::<_, ()>("proxy_on_tick", ROOT)?;
        filter.answer_callouts(&supported.to_string())?;
        Ok(filter)
    }

    fn call<A: wasmi::WasmParams, R: wasmi::WasmResults>(&mut self, name: &str, arguments: A) -> Result<R, Failure> {
        let function = self.instance.get_typed_func::<A, R>(&self.store, name)?;
        Ok(function.call(&mut self.store, arguments)?)
    }

    fn answer_callouts(&mut self, supported: &str) -> Result<(), Failure> {
        while let Some((token, path)) = self.store.data_mut().callouts.pop_front() {
            let path = String::from_utf8_lossy(&path);
            let verification = self.store.data().verification.clone();
            // Nothing here is proven: whoever is asked says no.
            let body = match () {
                () if path.contains("/supported") => supported,
                () if path.contains("/verify") => {
                    verification.as_deref().unwrap_or(r#"{"isValid":false,"invalidReason":"insufficient_funds"}"#)
                }
                () => r#"{"success":false,"errorReason":"insufficient_funds","transaction":"","network":""}"#,
            };
            let state = self.store.data_mut();
            state.headers.insert(6, encode_pairs(&[(b":status".to_vec(), b"200".to_vec())]));
            state.buffers.insert(4, body.as_bytes().to_vec());
            let size = u32::try_from(body.len())?;
            self.call::<_, ()>("proxy_on_http_call_response", (ROOT, token, 1_u32, size, 0_u32))?;
        }
        Ok(())
    }

    /// From now on `/verify` is answered so.
    pub fn verify_by(&mut self, answer: String) {
        self.store.data_mut().verification = Some(answer);
    }

    /// Lets a second pass for the worker; what that costs.
    pub fn tick(&mut self) -> Result<u64, Failure> {
        self.store.data_mut().passed += 1;
        let before = self.store.get_fuel()?;
        self.call::<_, ()>("proxy_on_tick", ROOT)?;
        let instructions = before - self.store.get_fuel()?;
        self.answer_callouts("{}")?;
        Ok(instructions)
    }

    /// Puts so many channels beside the one of this name, on as many pages, in place of those that were there: each like it but
    /// for its name.
    pub fn crowd(&mut self, id: &str, channels: usize, pages: usize) -> Result<(), Failure> {
        let id: Vec<u8> =
            (2..id.len()).step_by(2).map(|at| u8::from_str_radix(&id[at..at + 2], 16)).collect::<Result<_, _>>()?;
        let shared = &mut self.store.data_mut().shared;
        let is_of_it = |value: &[u8]| value.get(1..=id.len()) == Some(&id[..]);
        let (key, (page, _)) =
            shared.iter().find(|(_, (value, _))| is_of_it(value)).ok_or("the channel is not remembered")?;
        // Before others come, it stands alone on its page, and so do its bytes say how long a record is.
        let length = self.record.unwrap_or(page.len());
        let record = page[..length].to_vec();
        let name = String::from_utf8(key.clone())?;
        let (prefix, number) = name.rsplit_once('.').ok_or("a page has a number")?;
        let first = number.parse::<usize>()? / pages * pages;
        let key_of = |page: usize| format!("{prefix}.{page}").into_bytes();
        let own = key.clone();
        for page in first..first + pages {
            shared.remove(&key_of(page));
        }
        shared.insert(own, (record.clone(), 1));
        for channel in 0..channels {
            let mut other = record.clone();
            other[1..9].copy_from_slice(&u64::try_from(channel)?.to_be_bytes());
            shared.entry(key_of(first + channel % pages)).or_insert((Vec::new(), 1)).0.extend(other);
        }
        self.record = Some(length);
        Ok(())
    }

    /// Plays a request to its end.
    pub fn play(&mut self, request: &Request) -> Result<Outcome, Failure> {
        self.streams += 1;
        let id = self.streams;
        let state = self.store.data_mut();
        (state.replied, state.forwarded) = (None, false);
        state.headers.insert(0, encode_pairs(&request.headers));
        state.headers.insert(2, encode_pairs(&[(b":status".to_vec(), b"200".to_vec())]));
        let before = self.store.get_fuel()?;
        self.call::<_, ()>("proxy_on_context_create", (id, ROOT))?;
        let count = u32::try_from(request.headers.len())?;
        self.call::<_, u32>("proxy_on_request_headers", (id, count, u32::from(request.body.is_none())))?;
        if let (Some(body), None) = (&request.body, self.store.data().replied) {
            let size = u32::try_from(body.len())?;
            self.store.data_mut().buffers.insert(0, body.clone());
            self.call::<_, u32>("proxy_on_request_body", (id, size, 1_u32))?;
        }
        self.answer_callouts("{}")?;
        if self.store.data().replied.is_none() {
            self.call::<_, u32>("proxy_on_response_headers", (id, 1_u32, 1_u32))?;
        }
        self.call::<_, ()>("proxy_on_log", id)?;
        self.call::<_, ()>("proxy_on_delete", id)?;
        let instructions = before - self.store.get_fuel()?;
        Ok(Outcome { status: self.store.data().replied.unwrap_or(200), instructions })
    }
}

/// A list of headers as the ABI has it.
pub fn encode_pairs(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let size = |length: usize| u32::try_from(length).expect("a length").to_le_bytes();
    let mut bytes = size(pairs.len()).to_vec();
    for (name, value) in pairs {
        bytes.extend(size(name.len()));
        bytes.extend(size(value.len()));
    }
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend(text);
        bytes.push(0);
    }
    bytes
}

fn link(store: &mut Store<State>, linker: &mut Linker<State>) -> Result<(), Failure> {
    let mut add = |name: &str, function: Func| linker.define("env", name, function).map(drop);
    add(
        "proxy_log",
        Func::wrap(&mut *store, |mut caller: Caller<'_, State>, level: u32, at: u32, length: u32| -> u32 {
            let line = String::from_utf8_lossy(&read(&caller, at, length)).into_owned();
            if level >= 4 {
                caller.data_mut().complaints.push(line);
            }
            OK
        }),
    )?;
    add(
        "proxy_get_log_level",
        Func::wrap(&mut *store, |mut caller: Caller<'_, State>, at: u32| -> u32 {
            write(&mut caller, at, &2_u32.to_le_bytes());
            OK
        }),
    )?;
    add(
        "proxy_get_current_time_nanoseconds",
        Func::wrap(&mut *store, |mut caller: Caller<'_, State>, at: u32| -> u32 {
            let now = NOW + caller.data().passed;
            write(&mut caller, at, &(now * 1_000_000_000).to_le_bytes());
            OK
        }),
    )?;
    add(
        "proxy_get_header_map_pairs",
        Func::wrap(&mut *store, |mut caller: Caller<'_, State>, map: u32, data: u32, length: u32| -> u32 {
            let pairs = caller.data().headers.get(&map).cloned().unwrap_or_else(|| encode_pairs(&[]));
            hand(&mut caller, &pairs, data, length)
        }),
    )?;
    add(
        "proxy_get_buffer_bytes",
        Func::wrap(
            &mut *store,
            |mut caller: Caller<'_, State>, buffer: u32, _start: u32, most: u32, data: u32, length: u32| -> u32 {
                let mut bytes = caller.data().buffers.get(&buffer).cloned().unwrap_or_default();
                bytes.truncate(usize::try_from(most).expect("a length"));
                hand(&mut caller, &bytes, data, length)
            },
        ),
    )?;
    add(
        "proxy_get_property",
        Func::wrap(&mut *store, |_: Caller<'_, State>, _: u32, _: u32, _: u32, _: u32| -> u32 { NOT_FOUND }),
    )?;
    add(
        "proxy_send_local_response",
        Func::wrap(
            &mut *store,
            |mut caller: Caller<'_, State>,
             status: u32,
             _: u32,
             _: u32,
             _: u32,
             _: u32,
             _: u32,
             _: u32,
             _: u32|
             -> u32 {
                caller.data_mut().replied = Some(status);
                OK
            },
        ),
    )?;
    add(
        "proxy_http_call",
        Func::wrap(
            &mut *store,
            |mut caller: Caller<'_, State>,
             _: u32,
             _: u32,
             headers: u32,
             length: u32,
             _: u32,
             _: u32,
             _: u32,
             _: u32,
             _: u32,
             token: u32|
             -> u32 {
                let headers = read(&caller, headers, length);
                let state = caller.data_mut();
                state.tokens += 1;
                state.callouts.push_back((state.tokens, headers));
                let number = state.tokens.to_le_bytes();
                write(&mut caller, token, &number);
                OK
            },
        ),
    )?;
    add(
        "proxy_get_shared_data",
        Func::wrap(
            &mut *store,
            |mut caller: Caller<'_, State>, key: u32, key_length: u32, data: u32, length: u32, cas: u32| -> u32 {
                let key = read(&caller, key, key_length);
                let Some((value, version)) = caller.data().shared.get(&key).cloned() else { return NOT_FOUND };
                write(&mut caller, cas, &version.to_le_bytes());
                hand(&mut caller, &value, data, length)
            },
        ),
    )?;
    add(
        "proxy_set_shared_data",
        Func::wrap(
            &mut *store,
            |mut caller: Caller<'_, State>, key: u32, key_length: u32, at: u32, length: u32, cas: u32| -> u32 {
                let (key, value) = (read(&caller, key, key_length), read(&caller, at, length));
                let found = caller.data().shared.get(&key).map(|(_, version)| *version);
                if cas != 0 && found != Some(cas).filter(|cas| *cas != u32::MAX) {
                    return CAS_MISMATCH;
                }
                caller.data_mut().shared.insert(key, (value, found.unwrap_or(0) + 1));
                OK
            },
        ),
    )?;
    Ok(())
}
