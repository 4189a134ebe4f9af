/**
 * Writes an OCI image layout with the module as its only layer, as Istio and Envoy Gateway pull it: the file plugin.wasm
 * at the root of a tar, the same bytes each time. Push it with any tool for registries (`oras cp --from-oci-layout`,
 * `skopeo copy oci:…`, `crane push`).
 *
 * Usage: node stage/oci.mjs MODULE DIRECTORY
 *
 * Sources: OCI image specification 1.1 (image-layout, manifest, config); the POSIX tar format (ustar).
 */
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

const [module, directory] = process.argv.slice(2);
if (!directory) throw new Error("usage: node stage/oci.mjs MODULE DIRECTORY");

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");
const json = (value) => Buffer.from(JSON.stringify(value));

/** A tar of one file, readable by all, of the first second of the epoch. */
function tar(name, bytes) {
  const header = Buffer.alloc(512);
  const octal = (value, length) => value.toString(8).padStart(length - 1, "0") + "\0";
  header.write(name, 0);
  header.write(octal(0o644, 8), 100);
  header.write(octal(0, 8), 108);
  header.write(octal(0, 8), 116);
  header.write(octal(bytes.length, 12), 124);
  header.write(octal(0, 12), 136);
  header.write(" ".repeat(8), 148);
  header.write("0", 156);
  header.write("ustar\u000000", 257);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(sum.toString(8).padStart(6, "0") + "\0 ", 148);
  const padding = Buffer.alloc((512 - (bytes.length % 512)) % 512);
  return Buffer.concat([header, bytes, padding, Buffer.alloc(1024)]);
}

function writeBlob(bytes, mediaType) {
  const hash = sha256(bytes);
  writeFileSync(join(directory, "blobs", "sha256", hash), bytes);
  return { mediaType, digest: `sha256:${hash}`, size: bytes.length };
}

mkdirSync(join(directory, "blobs", "sha256"), { recursive: true });
const archive = tar("plugin.wasm", readFileSync(module));
const layer = writeBlob(gzipSync(archive, { level: 9 }), "application/vnd.oci.image.layer.v1.tar+gzip");
const config = writeBlob(
  json({ architecture: "wasm", os: "wasip1", config: {}, rootfs: { type: "layers", diff_ids: [`sha256:${sha256(archive)}`] } }),
  "application/vnd.oci.image.config.v1+json",
);
const manifest = writeBlob(
  json({ schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json", config, layers: [layer] }),
  "application/vnd.oci.image.manifest.v1+json",
);
writeFileSync(join(directory, "oci-layout"), json({ imageLayoutVersion: "1.0.0" }));
writeFileSync(join(directory, "index.json"), json({ schemaVersion: 2, manifests: [manifest] }));
