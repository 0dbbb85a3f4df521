package probe_test

import (
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/nodeagent/probe"
)

func TestGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, state := grpc.NewServer(), health.NewServer()
	healthv1.RegisterHealthServer(server, state)
	state.SetServingStatus("down", healthv1.HealthCheckResponse_NOT_SERVING)
	state.SetServingStatus("up", healthv1.HealthCheckResponse_SERVING)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	port := int32(l.Addr().(*net.TCPAddr).Port)
	ask := func(service *string) error {
		spec := &corev1.Probe{TimeoutSeconds: 5, ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: port, Service: service}}}
		return (&probe.Prober{}).Check(t.Context(), spec, probe.Target{IP: "127.0.0.1"})
	}
	for _, s := range []*string{nil, new(""), new("up")} {
		if err := ask(s); err != nil {
			t.Errorf("of a server that serves: %v", err)
		}
	}
	for service, want := range map[string]string{"down": "NOT_SERVING", "other": "unknown service"} {
		if err := ask(&service); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", service, err, want)
		}
	}
	server.Stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := ask(nil); err == nil {
		t.Error("nobody answers, and the probe says yes")
	}
}
