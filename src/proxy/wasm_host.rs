//! The host calls of a module in wasm, as imported functions (ABI 0.2.1): each returns a `Result`, whatever the host says.
#![allow(unsafe_code, reason = "the ABI is a set of foreign functions")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ptr::null_mut;
use std::time::Duration;

use super::host::{Buffer, Half, Host, HostError, Lifespan, LogLevel, Map, MetricKind};
use super::pairs::{self, Pair};

/// The proxy that has loaded this module.
#[derive(Clone, Copy, Default)]
pub(super) struct WasmHost;

impl Map {
    const fn number(self) -> u32 {
        match self {
            Self::Request => 0,
            Self::Response => 2,
            Self::ResponseTrailers => 3,
            Self::CalloutAnswer => 6,
            Self::CalloutTrailers => 7,
        }
    }
}

impl Half {
    /// Number of the half, and of the buffer with its body.
    const fn number(self) -> u32 {
        match self {
            Self::Request => 0,
            Self::Response => 1,
        }
    }
}

impl Buffer {
    const fn number(self) -> u32 {
        match self {
            Self::Body(half) => half.number(),
            Self::CalloutAnswer => 4,
            Self::PluginConfiguration => 7,
        }
    }
}

impl LogLevel {
    const fn number(self) -> u32 {
        match self {
            Self::Debug => 1,
            Self::Info => 2,
            Self::Warn => 3,
            Self::Error => 4,
            Self::Critical => 5,
        }
    }
}

const OK: u32 = 0;
const NOT_FOUND: u32 = 1;
const CAS_MISMATCH: u32 = 8;

/// As the `cas` of a write: the key must be absent.
const ABSENT: u32 = u32::MAX;

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn random_get(bytes: *mut u8, length: usize) -> u32;
    fn environ_sizes_get(count: *mut usize, length: *mut usize) -> u32;
    fn environ_get(places: *mut *mut u8, bytes: *mut u8) -> u32;
}

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: u32, message: *const u8, length: usize) -> u32;
    fn proxy_get_log_level(level: *mut u32) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, length: *mut usize) -> u32;
    fn proxy_remove_header_map_value(map: u32, name: *const u8, name_length: usize) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_length: usize,
        value: *const u8,
        value_length: usize,
    ) -> u32;
    fn proxy_add_header_map_value(
        map: u32,
        name: *const u8,
        name_length: usize,
        value: *const u8,
        value_length: usize,
    ) -> u32;
    fn proxy_get_buffer_bytes(
        buffer: u32,
        start: usize,
        max_length: usize,
        data: *mut *mut u8,
        length: *mut usize,
    ) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_length: usize,
        body: *const u8,
        body_length: usize,
        headers: *const u8,
        headers_length: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_set_buffer_bytes(buffer: u32, start: usize, length: usize, data: *const u8, size: usize) -> u32;
    fn proxy_continue_stream(stream: u32) -> u32;
    fn proxy_close_stream(stream: u32) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_length: usize,
        data: *mut *mut u8,
        length: *mut usize,
        cas: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(key: *const u8, key_length: usize, data: *const u8, length: usize, cas: u32) -> u32;
    fn proxy_get_property(path: *const u8, path_length: usize, data: *mut *mut u8, length: *mut usize) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_set_effective_context(context_id: u32) -> u32;
    fn proxy_http_call(
        cluster: *const u8,
        cluster_length: usize,
        headers: *const u8,
        headers_length: usize,
        body: *const u8,
        body_length: usize,
        trailers: *const u8,
        trailers_length: usize,
        timeout: u32,
        token: *mut u32,
    ) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, length: usize, id: *mut u32) -> u32;
    fn proxy_increment_metric(id: u32, offset: i64) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
    fn proxy_call_foreign_function(
        name: *const u8,
        name_length: usize,
        argument: *const u8,
        argument_length: usize,
        data: *mut *mut u8,
        length: *mut usize,
    ) -> u32;
    fn proxy_set_property(path: *const u8, path_length: usize, data: *const u8, length: usize) -> u32;
}

fn check(call: &'static str, status: u32) -> Result<(), HostError> {
    if status == OK { Ok(()) } else { Err(HostError { call, status }) }
}

/// Runs a host call that hands over memory which it took from this module's allocator.
fn receive(
    call: &'static str,
    run: impl FnOnce(*mut *mut u8, *mut usize) -> u32,
) -> Result<Option<Vec<u8>>, HostError> {
    let mut data = null_mut();
    let mut length = 0;
    match run(&raw mut data, &raw mut length) {
        OK if data.is_null() => Ok(Some(Vec::new())),
        // SAFETY: the host allocated exactly `length` bytes through this module's `malloc`, which makes them as a boxed
        // slice, and gave up its own pointer to them.
        OK => Ok(Some(unsafe { Vec::from_raw_parts(data, length, length) })),
        NOT_FOUND => Ok(None),
        status => Err(HostError { call, status }),
    }
}

thread_local! {
    /// The time of the callback that is under way; 0 where it has not asked yet.
    static CLOCK: Cell<u64> = const { Cell::new(0) };
    /// The numbers of metrics by their names.
    static METRICS: RefCell<BTreeMap<String, u32>> = const { RefCell::new(BTreeMap::new()) };
}

impl WasmHost {
    /// Begins a callback: what was known of the time is out of date.
    pub(super) fn enter(self) {
        CLOCK.set(0);
    }
}

/// Numbers of the kinds of metrics.
const COUNTER: u32 = 0;
const GAUGE: u32 = 1;
const HISTOGRAM: u32 = 2;

/// Returns the number of a metric, which is made where there is none of its name.
fn number_of(kind: u32, name: &str) -> Result<u32, HostError> {
    const CALL: &str = "define_metric";
    METRICS.with(|metrics| {
        let mut metrics = metrics.try_borrow_mut().map_err(|_| HostError { call: CALL, status: OK })?;
        if let Some(id) = metrics.get(name) {
            return Ok(*id);
        }
        let mut id = 0;
        // SAFETY: pointer and length are of one live string; the host writes to the place given.
        check(CALL, unsafe { proxy_define_metric(kind, name.as_ptr(), name.len(), &raw mut id) })?;
        metrics.insert(name.to_owned(), id);
        Ok(id)
    })
}

fn set_body(half: Half, start: usize, length: usize, bytes: &[u8]) -> Result<(), HostError> {
    // SAFETY: pointer and length are of one live buffer.
    let status = unsafe { proxy_set_buffer_bytes(half.number(), start, length, bytes.as_ptr(), bytes.len()) };
    check("set_buffer_bytes", status)
}

impl Host for WasmHost {
    fn log(&self, level: LogLevel, message: &str) {
        // SAFETY: pointer and length are of one live string.
        let _ = unsafe { proxy_log(level.number(), message.as_ptr(), message.len()) };
    }

    fn logs(&self, level: LogLevel) -> bool {
        let mut least = 0;
        // SAFETY: the host writes four bytes to the place given.
        let status = unsafe { proxy_get_log_level(&raw mut least) };
        status != 0 || level.number() >= least
    }

    fn now(&self) -> Result<u64, HostError> {
        match CLOCK.get() {
            0 => self.read_clock(),
            known => Ok(known),
        }
    }

    fn read_clock(&self) -> Result<u64, HostError> {
        let mut time = 0;
        // SAFETY: the host writes eight bytes to the place given.
        check("get_current_time", unsafe { proxy_get_current_time_nanoseconds(&raw mut time) })?;
        CLOCK.set(time);
        Ok(time)
    }

    fn random(&self) -> Result<[u8; 32], HostError> {
        let mut bytes = [0; 32];
        // SAFETY: the host writes as many bytes to the place given as it is told.
        check("random_get", unsafe { random_get(bytes.as_mut_ptr(), bytes.len()) })?;
        Ok(bytes)
    }

    fn variable(&self, name: &str) -> Result<Option<String>, HostError> {
        let (mut count, mut length) = (0, 0);
        // SAFETY: the host writes four bytes to each of the places given.
        check("environ_sizes_get", unsafe { environ_sizes_get(&raw mut count, &raw mut length) })?;
        let (mut places, mut bytes) = (vec![null_mut(); count], vec![0; length]);
        // SAFETY: the host writes as many pointers and bytes to the places given as it has just said.
        check("environ_get", unsafe { environ_get(places.as_mut_ptr(), bytes.as_mut_ptr()) })?;
        // Each variable ends with a zero, the last one too.
        let mut variables = bytes.split(|byte| *byte == 0);
        let value = variables.find_map(|text| text.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
        Ok(value.and_then(|value| String::from_utf8(value.to_vec()).ok()))
    }

    fn headers<T>(&self, map: Map, read: impl FnOnce(Vec<Pair<'_>>) -> T) -> Result<T, HostError> {
        const CALL: &str = "get_header_map_pairs";
        // SAFETY: the host writes a pointer and a length to the places given.
        let bytes = receive(CALL, |data, length| unsafe { proxy_get_header_map_pairs(map.number(), data, length) })?;
        let pairs = match &bytes {
            None => Vec::new(),
            Some(bytes) => pairs::decode(bytes).ok_or(HostError { call: CALL, status: OK })?,
        };
        Ok(read(pairs))
    }

    fn remove_header(&self, map: Map, name: &str) -> Result<(), HostError> {
        // SAFETY: pointer and length are of one live string.
        let status = unsafe { proxy_remove_header_map_value(map.number(), name.as_ptr(), name.len()) };
        check("remove_header_map_value", status)
    }

    fn set_header(&self, map: Map, name: &str, value: &str) -> Result<(), HostError> {
        // SAFETY: pointers and lengths are of live strings.
        let status = unsafe {
            proxy_replace_header_map_value(map.number(), name.as_ptr(), name.len(), value.as_ptr(), value.len())
        };
        check("replace_header_map_value", status)
    }

    fn add_header(&self, map: Map, name: &str, value: &str) -> Result<(), HostError> {
        // SAFETY: pointers and lengths are of live strings.
        let status =
            unsafe { proxy_add_header_map_value(map.number(), name.as_ptr(), name.len(), value.as_ptr(), value.len()) };
        check("add_header_map_value", status)
    }

    fn buffer_from(&self, buffer: Buffer, start: usize, max_length: usize) -> Result<Vec<u8>, HostError> {
        // SAFETY: the host writes a pointer and a length to the places given.
        let bytes = receive("get_buffer_bytes", |data, length| unsafe {
            proxy_get_buffer_bytes(buffer.number(), start, max_length, data, length)
        })?;
        Ok(bytes.unwrap_or_default())
    }

    fn replace_body(&self, half: Half, bytes: &[u8]) -> Result<(), HostError> {
        set_body(half, 0, usize::MAX, bytes)
    }

    fn append_to_body(&self, half: Half, bytes: &[u8]) -> Result<(), HostError> {
        const END: usize = 0x7fff_ffff;
        set_body(half, END, 0, bytes)
    }

    fn send_reply(&self, status: u16, details: &str, headers: &[(&str, &str)], body: &str) -> Result<(), HostError> {
        const NO_GRPC_STATUS: i32 = -1;
        let headers = pairs::encode(headers);
        // SAFETY: pointers and lengths are of live buffers.
        let status = unsafe {
            proxy_send_local_response(
                u32::from(status),
                details.as_ptr(),
                details.len(),
                body.as_ptr(),
                body.len(),
                headers.as_ptr(),
                headers.len(),
                NO_GRPC_STATUS,
            )
        };
        check("send_local_response", status)
    }

    fn resume(&self, half: Half) -> Result<(), HostError> {
        // SAFETY: passes a number only.
        check("continue_stream", unsafe { proxy_continue_stream(half.number()) })
    }

    fn close(&self, half: Half) -> Result<(), HostError> {
        // SAFETY: passes a number only.
        check("close_stream", unsafe { proxy_close_stream(half.number()) })
    }

    fn act_on(&self, context_id: u32) -> Result<(), HostError> {
        // SAFETY: passes a number only.
        check("set_effective_context", unsafe { proxy_set_effective_context(context_id) })
    }

    fn shared_data(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError> {
        let mut cas = 0;
        // SAFETY: pointer and length are of one live string; the host writes to the places given.
        let value = receive("get_shared_data", |data, length| unsafe {
            proxy_get_shared_data(key.as_ptr(), key.len(), data, length, &raw mut cas)
        })?;
        Ok(value.map(|value| (value, cas)))
    }

    fn set_shared_data(&self, key: &str, value: &[u8], expected: Option<u32>) -> Result<bool, HostError> {
        let cas = expected.unwrap_or(ABSENT);
        // SAFETY: pointers and lengths are of live buffers.
        let status = unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), cas) };
        if status == CAS_MISMATCH { Ok(false) } else { check("set_shared_data", status).map(|()| true) }
    }

    fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, HostError> {
        let path = path.join("\0");
        // SAFETY: pointer and length are of one live string; the host writes to the places given.
        receive("get_property", |data, length| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, length) })
    }

    fn set_property(&self, name: &str, value: &str) -> Result<(), HostError> {
        // SAFETY: pointers and lengths are of live strings.
        let status = unsafe { proxy_set_property(name.as_ptr(), name.len(), value.as_ptr(), value.len()) };
        check("set_property", status)
    }

    fn declare_property(&self, name: &str, lifespan: Lifespan) -> Result<(), HostError> {
        // Source: `declare_property` of Envoy, whose argument is an encoded `DeclarePropertyArguments`
        // (`source/extensions/common/wasm/declare_property.proto`).
        const FUNCTION: &str = "declare_property";
        const NAME: u8 = 1 << 3 | 2;
        const SPAN: u8 = 5 << 3;
        let span = match lifespan {
            Lifespan::Request => 1,
        };
        let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
        let argument = [&[NAME, length], name.as_bytes(), &[SPAN, span]].concat();
        // SAFETY: pointers and lengths are of live texts; the host writes a pointer and a length to the places given.
        let answer = receive("call_foreign_function", |data, length| unsafe {
            proxy_call_foreign_function(
                FUNCTION.as_ptr(),
                FUNCTION.len(),
                argument.as_ptr(),
                argument.len(),
                data,
                length,
            )
        });
        answer.map(drop)
    }

    fn set_tick_period(&self, period: Duration) -> Result<(), HostError> {
        let period = u32::try_from(period.as_millis()).unwrap_or(u32::MAX);
        // SAFETY: passes a number only.
        check("set_tick_period_milliseconds", unsafe { proxy_set_tick_period_milliseconds(period) })
    }

    fn dispatch(
        &self,
        cluster: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        timeout: Duration,
    ) -> Result<u32, HostError> {
        let headers = pairs::encode(headers);
        let trailers = pairs::encode(&[]);
        let timeout = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let mut token = 0;
        // SAFETY: pointers and lengths are of live buffers; the host writes to the place given.
        let status = unsafe {
            proxy_http_call(
                cluster.as_ptr(),
                cluster.len(),
                headers.as_ptr(),
                headers.len(),
                body.as_ptr(),
                body.len(),
                trailers.as_ptr(),
                trailers.len(),
                timeout,
                &raw mut token,
            )
        };
        check("http_call", status).map(|()| token)
    }

    fn add_metric(&self, kind: MetricKind, name: &str, by: i64) -> Result<(), HostError> {
        let kind = match kind {
            MetricKind::Counter => COUNTER,
            MetricKind::Gauge => GAUGE,
        };
        let id = number_of(kind, name)?;
        // SAFETY: passes numbers only.
        check("increment_metric", unsafe { proxy_increment_metric(id, by) })
    }

    fn set_gauge(&self, name: &str, value: u64) -> Result<(), HostError> {
        let id = number_of(GAUGE, name)?;
        // SAFETY: passes numbers only.
        check("record_metric", unsafe { proxy_record_metric(id, value) })
    }

    fn record_metric(&self, name: &str, value: u64) -> Result<(), HostError> {
        let id = number_of(HISTOGRAM, name)?;
        // SAFETY: passes numbers only.
        check("record_metric", unsafe { proxy_record_metric(id, value) })
    }
}
