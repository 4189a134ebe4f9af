#!/bin/sh
# What try.yaml runs in Envoy's image, in the checkout: fills own-api.yaml in from the environment, and becomes Envoy with it.
set -eu

refuse() {
  echo "$*" >&2
  exit 1
}

# Whether a value is, from its beginning to its end, what a regular expression says: nothing else gets into the YAML.
is() { printf '%s' "$1" | tr '\n' ' ' | grep -Eqx "$2"; }

port='(:[0-9]{1,5})?'
host='([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])'
here='(127\.0\.0\.1|localhost|\[::1\])'

PRICE=${PRICE#\$}
FACILITATOR=${FACILITATOR%/}
is "$API" "http://$host$port/?" \
  || refuse "API: \"$API\" is not http://HOST:PORT (for an API behind TLS see envoy/gateway.yaml)"
is "$PAY_TO" '0x[0-9A-Fa-f]{40}|[1-9A-HJ-NP-Za-km-z]{32,44}' || refuse "PAY_TO: \"$PAY_TO\" is no account, such as 0x and 40 hexadecimal digits"
is "$PRICE" '[0-9]+(\.[0-9]+)?' || refuse "PRICE: \"$PRICE\" is no number of dollars, such as 0.001"
is "$NETWORK" '[A-Za-z0-9:_-]+' || refuse "NETWORK: \"$NETWORK\" is no network, such as base-sepolia"
# Who can change what the facilitator says has the API for nothing.
is "$FACILITATOR" "(https://$host|http://$here)$port(/[A-Za-z0-9._~/-]*)?" \
  || refuse "FACILITATOR: \"$FACILITATOR\" is not https://HOST/PATH (http:// is for 127.0.0.1 alone)"
for value in "$LISTEN" "$ADMIN"; do
  is "$value" '[0-9]{1,5}' || refuse "LISTEN, ADMIN: \"$value\" is no port"
done
is "$WASM" '[A-Za-z0-9._/-]+' && [ -f "$WASM" ] && [ -r "$WASM" ] \
  || refuse "WASM: \"$WASM\" cannot be read in this checkout: run \`make build\`, or name another module"

# Host, and port or the default, of a URL.
host_of() { printf '%s' "$1" | sed -E "s|^[a-z]+://||; s|/.*||; s|:[0-9]+\$||; s|^\[(.*)\]\$|\1|"; }
port_of() {
  found=$(printf '%s' "$1" | sed -nE 's|^[a-z]+://[^/]*[^:/]:([0-9]+)(/.*)?$|\1|p')
  echo "${found:-$2}"
}

config=${TMPDIR:-/tmp}/own-api.yaml
facilitator=$(host_of "$FACILITATOR")
case $FACILITATOR in
  # The transport socket is the end of the file.
  http://*) without_tls='/^ *transport_socket:/,$d' default=80 ;;
  *) without_tls='' default=443 ;;
esac

sed -E -e "$without_tls" \
  -e "s|\\$\{API_HOST\}|$(host_of "$API")|; s|\\$\{API_PORT\}|$(port_of "$API" 80)|" \
  -e "s|\\$\{PAY_TO\}|$PAY_TO|; s|\\$\{WASM\}|$WASM|; s|\\$\{CA\}|/etc/ssl/certs/ca-certificates.crt|" \
  -e "s|\\$\{LISTEN_PORT\}|$LISTEN|; s|\\$\{ADMIN_PORT\}|$ADMIN|" \
  -e "s|^( *price:) .*|\1 \"\$$PRICE\"|; s|(network:) [^,]*|\1 \"$NETWORK\"|" \
  -e "s|(cluster: facilitator, url:) [^}]*|\1 \"$FACILITATOR\"|; s|^( *sni:) .*|\1 \"$facilitator\"|" \
  -e "s|(address:) www.x402.org, (port_value:) 443|\1 \"$facilitator\", \2 $(port_of "$FACILITATOR" $default)|" \
  envoy/own-api.yaml > "$config"

echo "Selling $API at http://127.0.0.1:$LISTEN, each request for $PRICE dollars on $NETWORK to $PAY_TO"
# The network is the host's, where another Envoy may run.
exec envoy -c "$config" --disable-hot-restart
