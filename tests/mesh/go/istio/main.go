// Command istiod is Istio's control plane for waypoints of a stock Envoy.
//
// Istio sends waypoints three filters that only its own build of Envoy has. Two tell telemetry who the peer is: a filter that does
// nothing stands for each. The third notes the caller of the tunnel in filter state, as text of a kind of Istio's own: here it is
// text of the kind that every Envoy has.
package main

import (
	"os"

	mutation "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	state "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"istio.io/istio/pilot/cmd/pilot-discovery/app"
	"istio.io/istio/pilot/pkg/xds/filters"
)

func packed(name string, config *anypb.Any) *hcm.HttpFilter {
	return &hcm.HttpFilter{Name: name, ConfigType: &hcm.HttpFilter_TypedConfig{TypedConfig: config}}
}

func idle(of *hcm.HttpFilter) *hcm.HttpFilter {
	nothing, err := anypb.New(&mutation.HeaderMutation{})
	if err != nil {
		panic(err)
	}
	return packed(of.GetName(), nothing)
}

func withStockText(of *hcm.HttpFilter) *hcm.HttpFilter {
	config := &state.Config{}
	if err := of.GetTypedConfig().UnmarshalTo(config); err != nil {
		panic(err)
	}
	for _, value := range config.GetOnRequestHeaders() {
		if value.GetFactoryKey() == "istio.hashable_string" {
			value.FactoryKey = "envoy.hashable_string"
		}
	}
	changed, err := anypb.New(config)
	if err != nil {
		panic(err)
	}
	return packed(of.GetName(), changed)
}

func main() {
	filters.WaypointDownstreamMetadataFilter = idle(filters.WaypointDownstreamMetadataFilter)
	filters.WaypointUpstreamMetadataFilter = idle(filters.WaypointUpstreamMetadataFilter)
	filters.ConnectAuthorityFilter = withStockText(filters.ConnectAuthorityFilter)
	if err := app.NewRootCommand().Execute(); err != nil {
		os.Exit(1)
	}
}
