#!/usr/bin/env bash
# Builds the programs of one of these modules, and copies what they need from their own: build.sh MODULE DIRECTORY
set -euo pipefail
module=$1
mkdir -p "$2/bin" "$2/share/$module"
bin=$(cd "$2/bin" && pwd) share=$(cd "$2/share/$module" && pwd)
cd "$(dirname "$0")/$module"
command -v go >/dev/null || { echo "make test-mesh needs Go 1.26 or newer on the PATH (https://go.dev/dl): install it"; exit 1; }
# Their own modules alone: no network is asked for anything that go.sum does not name.
export GOFLAGS=-mod=readonly
build() { go build -trimpath -buildvcs=false -ldflags='-s -w' -o "$bin/$1" "$2"; }
of() { go list -m -f '{{.Dir}}' "$1"; }
case $module in
etcd)
  build etcd go.etcd.io/etcd/server/v3
  build etcdctl go.etcd.io/etcd/etcdctl/v3
  ;;
kubernetes)
  build kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
  build kubectl k8s.io/kubernetes/cmd/kubectl
  ;;
istio)
  build istiod .
  build pilot-agent istio.io/istio/pilot/cmd/pilot-agent
  from=$(of istio.io/istio)
  install -m 644 "$from/manifests/charts/base/files/crd-all.gen.yaml" "$from/tests/integration/pilot/testdata/gateway-api-crd.yaml" \
    "$from/tools/packaging/common/envoy_bootstrap.json" "$share"
  ;;
envoy-gateway)
  build envoy-gateway github.com/envoyproxy/gateway/cmd/envoy-gateway
  from=$(of github.com/envoyproxy/gateway)/charts/gateway-crds-helm/templates
  # Templates of Helm, but for lines of conditions they are what is applied.
  for file in "$from"/experimental-gatewayapi-crds.yaml "$from"/generated/*.yaml; do grep -v '^{{.*}}$' "$file" > "$share/$(basename "$file")"; done
  ;;
*) echo "there is no module $module"; exit 1 ;;
esac
