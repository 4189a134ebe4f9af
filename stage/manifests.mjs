/**
 * Writes the manifests for Istio and Envoy Gateway as a release has them: the image is named by its digest, so that nobody who may
 * write to the registry can put another module in its place.
 *
 * Usage: node stage/manifests.mjs LAYOUT DIRECTORY [IMAGE]
 *
 * LAYOUT is the OCI image layout that stage/oci.mjs wrote, IMAGE where its image was, or will be, pushed to (REGISTRY/NAME:TAG).
 */
import { cpSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const [layout, directory, image] = process.argv.slice(2);
if (!directory) throw new Error("usage: node stage/manifests.mjs LAYOUT DIRECTORY [IMAGE]");

/** The image as the manifests name it. */
const PLACEHOLDER = "registry.example.com/x402-proxy-wasm:0.1.0";
const { digest } = JSON.parse(readFileSync(join(layout, "index.json"), "utf8")).manifests[0];
const hash = digest.replace(/^sha256:/, "");

/** The same manifest, with the image's digest wherever the image is named. */
function pinned(text) {
  return text
    .replace(`\n    url: oci://${PLACEHOLDER}\n`, (line) => `${line}    sha256: "${hash}"\n`)
    .replace(`\n  url: oci://${PLACEHOLDER}\n`, (line) => `${line}  sha256: "${hash}"\n`)
    .replace(`{url: "${PLACEHOLDER}"}`, `{url: "${PLACEHOLDER}", sha256: "${hash}"}`)
    .replace(`{hostKeys: ["${PLACEHOLDER}"]}`, `{hostKeys: ["${hash}"]}`)
    .replace("sha256: nil", `sha256: "${hash}"`)
    .replaceAll(PLACEHOLDER, image || PLACEHOLDER);
}

for (const folder of ["istio", "envoy-gateway"]) {
  const to = join(directory, folder);
  cpSync(fileURLToPath(new URL(`../envoy/${folder}`, import.meta.url)), to, { recursive: true, verbatimSymlinks: true });
  for (const entry of readdirSync(to, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const file = join(entry.parentPath ?? entry.path, entry.name);
    const text = readFileSync(file, "utf8");
    const named = text.split(PLACEHOLDER).length - 1;
    const written = pinned(text);
    if (named !== written.split(hash).length - 1) throw new Error(`${file}: an image stands there without a digest`);
    if (named > 0) writeFileSync(file, written);
  }
}
