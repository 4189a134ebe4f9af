/**
 * What the shipped configurations trust: every cluster, manifest and example that speaks TLS to a service checks the name
 * in its certificate, what is called by https speaks TLS, and each VM has a name of its own.
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseAllDocuments } from "yaml";
import { checkout } from "../../stage/processes.mjs";

const FOLDERS = ["envoy", "docs", "examples", "stage"];

const documentsIn = (yaml) =>
  parseAllDocuments(yaml.replace(/\$\{\w+\}/g, "1")).map((document) => {
    assert.deepEqual(document.errors, []);
    return document.toJS();
  });

/** Every document of every shipped file, and of every block of YAML or JSON on a page: [where, document]. */
function* shipped() {
  const all = FOLDERS.flatMap((folder) => readdirSync(join(checkout, folder), { recursive: true }).map((file) => `${folder}/${file}`));
  // A manifest stands beside the others of its folder as a link to where kustomize finds it.
  const files = all.filter((file) => !/^envoy\/.*\/(base|components)\//.test(file));
  for (const file of [...files, ...readdirSync(checkout).filter((file) => file.endsWith(".md"))]) {
    if (/\.(ya?ml|json)$/.test(file)) {
      for (const document of documentsIn(readFileSync(join(checkout, file), "utf8"))) yield [file, document];
    }
    if (/\.md$/.test(file)) {
      for (const [, text] of readFileSync(join(checkout, file), "utf8").matchAll(/^ *```(?:ya?ml|json)\n(.*?)^ *```/gms)) {
        for (const document of documentsIn(text)) yield [file, document];
      }
    }
  }
}

/** Every object in a value. */
function* objectsIn(value) {
  if (typeof value !== "object" || value === null) return;
  if (!Array.isArray(value)) yield value;
  for (const inner of Object.values(value)) yield* objectsIn(inner);
}

const isText = (value) => typeof value === "string" && value !== "";
const isList = (value) => Array.isArray(value) && value.length > 0 && value.every((item) => item !== "");

/** What is wrong with the TLS of an Envoy cluster (UpstreamTlsContext), if anything is. */
function faultOfContext(context) {
  const common = context.common_tls_context ?? {};
  const validation = common.validation_context ?? common.combined_validation_context?.default_validation_context;
  if (!validation) return "trusts any certificate: no validation_context";
  if (!validation.trusted_ca && !validation.system_root_certs) return "trusts any authority: no trusted_ca";
  if (validation.trust_chain_verification === "ACCEPT_UNTRUSTED") return "takes what nobody vouches for";
  const names = isList(validation.match_typed_subject_alt_names) || isList(validation.match_subject_alt_names);
  const isChecked = names || (context.auto_sni_san_validation === true && (isText(context.sni) || context.auto_host_sni === true));
  return isChecked ? null : "checks no name: neither match_typed_subject_alt_names nor auto_sni_san_validation with sni";
}

/** The same of the settings of an Istio DestinationRule. */
function faultOfSettings({ mode, subjectAltNames, insecureSkipVerify }) {
  if (mode !== "SIMPLE" && mode !== "MUTUAL") return mode === "ISTIO_MUTUAL" ? null : `mode ${mode} is none that checks anybody`;
  if (insecureSkipVerify) return "insecureSkipVerify";
  return isList(subjectAltNames) ? null : "checks no name: no subjectAltNames";
}

/** The same of a policy of the Gateway API. */
function faultOfPolicy({ validation = {} }) {
  if (!isText(validation.hostname)) return "checks no name: no validation.hostname";
  return validation.wellKnownCACertificates === "System" || isList(validation.caCertificateRefs) ? null : "names no authorities";
}

/** All that is said of TLS to services in a document: [what, fault or null]. */
function* tlsIn(document) {
  for (const object of objectsIn(document)) {
    const type = object["@type"] ?? "";
    if (type.endsWith(".UpstreamTlsContext")) yield ["UpstreamTlsContext", faultOfContext(object)];
    if (type.endsWith(".QuicUpstreamTransport")) yield ["QuicUpstreamTransport", faultOfContext(object.upstream_tls_context ?? {})];
    if (object.kind === "DestinationRule") {
      for (const { tls } of objectsIn(object.spec)) if (tls) yield [`DestinationRule for ${object.spec.host}`, faultOfSettings(tls)];
    }
    if (object.kind === "BackendTLSPolicy") yield ["BackendTLSPolicy", faultOfPolicy(object.spec)];
    // Envoy Gateway's Backend can switch the check off.
    if (object.insecureSkipVerify === true || object.insecure_skip_verify === true) yield ["a backend", "insecureSkipVerify"];
  }
}

/** Services that are called by https: [cluster, host]. */
function* callsIn(document) {
  for (const { cluster, url } of objectsIn(document)) {
    if (isText(cluster) && isText(url) && url.startsWith("https://")) yield [cluster, new URL(url).hostname];
  }
}

const all = [...shipped()];

test("Every cluster, manifest and example that speaks TLS checks whose certificate it is", () => {
  const found = all.flatMap(([where, document]) => [...tlsIn(document)].map(([what, fault]) => ({ where, what, fault })));
  assert.deepEqual(found.filter(({ fault }) => fault), []);
  const files = new Set(found.map(({ where }) => where));
  for (const file of ["envoy/gateway.yaml", "envoy/own-api.yaml", "envoy/istio/facilitator.yaml", "envoy/envoy-gateway/facilitator.yaml", "envoy/istio/ledger.yaml", "envoy/envoy-gateway/ledger.yaml"]) {
    assert.ok(files.has(file), `${file} says nothing of TLS`);
  }
});

test("What is called by https is a cluster of the same file or folder that speaks TLS to that very host", () => {
  let calls = 0;
  for (const [where, document] of all.filter(([where]) => /\.ya?ml$/.test(where))) {
    const folder = where.replace(/[^/]*$/, "");
    const around = all.filter(([other]) => other === where || (folder !== "envoy/" && other.startsWith(folder))).map(([, other]) => other);
    for (const [cluster, host] of callsIn(document)) {
      calls += 1;
      const istio = /^outbound\|\d+\|[^|]*\|(.+)$/.exec(cluster)?.[1];
      const objects = around.flatMap((other) => [...objectsIn(other)]);
      const names = istio
        ? objects.filter(({ kind, spec }) => kind === "DestinationRule" && spec.host === istio).map(({ spec }) => spec.trafficPolicy?.tls?.subjectAltNames ?? [])
        : objects.filter(({ name, transport_socket }) => name === cluster && transport_socket).map((one) => [one.transport_socket.typed_config.sni]);
      assert.deepEqual(names, [[host]], `${where}: ${cluster} is called as ${host}`);
    }
  }
  assert.ok(calls >= 6, `${calls} calls`);
});

test("Every VM of the filter has a vm_id of its own: who shares it reads and writes the ledger", () => {
  const ids = all.flatMap(([where, document]) =>
    [...objectsIn(document)].filter((object) => "vm_config" in object).map(({ vm_config }) => [where, vm_config.vm_id]),
  );
  assert.ok(ids.length >= 4);
  for (const [where, id] of ids) assert.ok(isText(id) && id.length >= 8 && /x402/.test(id), `${where}: vm_id ${id}`);
});

/** A context that is right, changed. */
const context = (change) => {
  const right = {
    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
    sni: "a.example",
    auto_sni_san_validation: true,
    common_tls_context: { validation_context: { trusted_ca: { filename: "/ca.crt" } } },
  };
  change(right);
  return { clusters: [{ name: "a", transport_socket: { typed_config: right } }] };
};
const rule = (tls, more = {}) => ({ kind: "DestinationRule", spec: { host: "a.example", trafficPolicy: { tls }, ...more } });
const policy = (validation) => ({ kind: "BackendTLSPolicy", spec: { validation } });

for (const [what, document, faults] of [
  ["a right cluster", context(() => {}), 0],
  ["a cluster with matchers", context((one) => {
    delete one.auto_sni_san_validation;
    one.common_tls_context.validation_context.match_typed_subject_alt_names = [{ san_type: "DNS", matcher: { exact: "a.example" } }];
  }), 0],
  ["a cluster that trusts anybody", context((one) => delete one.common_tls_context), 1],
  ["a cluster that trusts any authority", context((one) => delete one.common_tls_context.validation_context.trusted_ca), 1],
  ["a cluster that checks no name", context((one) => delete one.auto_sni_san_validation), 1],
  ["a cluster that checks a name it does not have", context((one) => delete one.sni), 1],
  ["a cluster with an empty list of names", context((one) => {
    delete one.auto_sni_san_validation;
    one.common_tls_context.validation_context.match_typed_subject_alt_names = [];
  }), 1],
  ["a right rule", rule({ mode: "SIMPLE", sni: "a.example", subjectAltNames: ["a.example"] }), 0],
  ["a rule with nothing but sni", rule({ mode: "SIMPLE", sni: "a.example" }), 1],
  ["a rule with no names in its list", rule({ mode: "SIMPLE", subjectAltNames: [] }), 1],
  ["a rule that skips the check", rule({ mode: "SIMPLE", subjectAltNames: ["a.example"], insecureSkipVerify: true }), 2],
  ["a rule of a port", rule(undefined, { trafficPolicy: { portLevelSettings: [{ tls: { mode: "MUTUAL" } }] } }), 1],
  ["a right policy", policy({ hostname: "a.example", wellKnownCACertificates: "System" }), 0],
  ["a policy without authorities", policy({ hostname: "a.example" }), 1],
  ["a policy without a name", policy({ wellKnownCACertificates: "System" }), 1],
]) {
  test(`The checks above see ${what}`, () => {
    const found = [...tlsIn(document)].filter(([, fault]) => fault);
    assert.equal(found.length, faults, JSON.stringify(found));
  });
}
