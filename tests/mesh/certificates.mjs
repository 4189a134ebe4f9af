/** Certificates: authorities, and what they issue. Keys are of P-256. */
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

/**
 * Makes an authority.
 *
 * @param {string} directory where its files go
 * @returns {{ca: string, issue: (file: string, name: string, options?: {expired?: boolean, alternative?: string, client?: boolean}) => [string, string]}}
 *   `ca` is its certificate's file; `issue` gives the files of a certificate for a name and of its key
 */
export function makeAuthority(directory) {
  mkdirSync(directory, { recursive: true });
  const openssl = (...args) => execFileSync("openssl", args, { cwd: directory, stdio: "pipe" });
  const write = (file, text) => writeFileSync(join(directory, file), text);
  openssl("req", "-x509", ...KEY, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority", "-days", "2");
  // The command `ca` alone issues a certificate that has expired.
  write("ca.cnf", "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nnew_certs_dir=.\nrand_serial=yes\npolicy=p\ndefault_md=sha256\nunique_subject=no\n[p]\ncommonName=supplied\n");
  write("index.txt", "");
  return {
    ca: join(directory, "ca.crt"),
    caKey: join(directory, "ca.key"),
    issue: (file, name, { expired = false, alternative = `DNS:${name}`, client = false } = {}) => {
      write(`${file}.ext`, `subjectAltName=${alternative}\n${client ? "extendedKeyUsage=clientAuth\n" : ""}`);
      openssl("req", ...KEY, "-keyout", `${file}.key`, "-out", `${file}.csr`, "-subj", `/CN=${name}`);
      const [from, to] = expired ? ["20200101000000Z", "20200201000000Z"] : ["20200101000000Z", "20991231000000Z"];
      openssl("ca", "-batch", "-notext", "-config", "ca.cnf", "-cert", "ca.crt", "-keyfile", "ca.key", "-in", `${file}.csr`, "-out", `${file}.crt`, "-extfile", `${file}.ext`, "-startdate", from, "-enddate", to);
      return [join(directory, `${file}.crt`), join(directory, `${file}.key`)];
    },
  };
}
