/** A Docker daemon in the namespaces that `run.sh` made, and images under the names that the compose files ask for. */
import { execFile, execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { checkout, startProcess, until } from "../../stage/processes.mjs";

/** Envoy's program itself: what `.venv/bin` has is a script that starts it. */
function envoyProgram() {
  if (process.env.ENVOY) return process.env.ENVOY;
  const libraries = join(checkout, ".venv", "lib");
  const [python] = readdirSync(libraries).filter((name) => name.startsWith("python"));
  return join(libraries, python, "site-packages", "envoy", "_bin", "envoy");
}

// As Envoy's image does it: whoever starts it, Envoy itself is not root, and may write to the container's output.
const ENVOY_ENTRYPOINT = `#!/bin/sh
chown envoy:envoy /dev/stdout /dev/stderr
exec setpriv --reuid envoy --regid envoy --init-groups "$@"
`;

/**
 * Starts the daemon.
 *
 * @param {ReturnType<typeof import("../../stage/processes.mjs").makeRunDirectory>} run
 * @returns {Promise<Docker>}
 *
 * @typedef {object} Docker
 * @property {(...args: string[]) => Promise<string>} docker runs the command `docker`, and returns what it printed
 * @property {Record<string, string>} env by which every client finds this daemon, and nothing of the user's
 * @property {(names: {node: string, envoy: string}, authority: string) => Promise<void>} makeImages makes an image
 *   with this Node and one with this Envoy, under these names; both trust the authority, a path of a PEM file
 * @property {() => Promise<void>} stop
 */
export async function startDocker(run) {
  const socket = join(run.path, "docker.sock");
  const directory = (name) => join(run.path, name);
  // Neither this machine's settings are this daemon's, nor the other way round.
  const settings = directory("daemon.json");
  writeFileSync(settings, JSON.stringify({ "deprecated-key-path": directory("key.json"), "cgroup-parent": process.env.CGROUP }));
  const env = { DOCKER_HOST: `unix://${socket}`, DOCKER_BUILDKIT: "0" };
  const daemon = startProcess({
    name: "dockerd",
    command: execFileSync("which", ["dockerd"], { encoding: "utf8" }).trim(),
    args: [
      ...["--host", env.DOCKER_HOST, "--data-root", directory("data"), "--exec-root", directory("exec")],
      ...["--pidfile", directory("docker.pid"), "--config-file", settings, "--storage-driver", "overlay2"],
    ],
    run,
  });
  const docker = async (...args) => {
    const { stdout } = await promisify(execFile)("docker", args, { env: { ...process.env, ...env }, maxBuffer: 64_000_000 });
    return stdout.trim();
  };
  await until(() => docker("version"), { what: "dockerd", process: daemon, timeoutMs: 60_000 });

  const build = async (name, files, lines) => {
    const context = directory(`image-${name.replace(/\W/g, "-")}`);
    mkdirSync(context);
    for (const [file, source] of Object.entries(files)) copyFileSync(source, join(context, file));
    writeFileSync(join(context, "entrypoint.sh"), ENVOY_ENTRYPOINT, { mode: 0o755 });
    writeFileSync(join(context, "Dockerfile"), lines.join("\n"));
    await docker("build", "--quiet", "--tag", name, context);
  };
  const makeImages = async ({ node, envoy }, authority) => {
    await docker("import", process.env.BASE, "base:0");
    await build("trusting:0", { "stage.crt": authority }, [
      "FROM base:0",
      "COPY stage.crt /usr/local/share/ca-certificates/stage.crt",
      "RUN update-ca-certificates",
    ]);
    await build(node, { node: process.execPath }, ["FROM trusting:0", "COPY node /usr/local/bin/node"]);
    await build(envoy, { envoy: envoyProgram() }, [
      "FROM trusting:0",
      "RUN useradd --system envoy",
      "COPY envoy /usr/local/bin/envoy",
      "COPY entrypoint.sh /entrypoint.sh",
      'ENTRYPOINT ["/entrypoint.sh"]',
    ]);
  };
  return { docker, env, makeImages, stop: daemon.stop };
}
