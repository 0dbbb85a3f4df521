package probe

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	health "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
)

// grpc asks by gRPC's health checking protocol, without TLS, as Kubernetes does.
func (p *Prober) grpc(ctx context.Context, a *corev1.GRPCAction, t Target) error {
	address := net.JoinHostPort(t.IP, strconv.Itoa(int(a.Port)))
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent("podsnap-probe"), grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return p.dial(ctx, "tcp", address) }))
	if err != nil {
		return fmt.Errorf("gRPC probe of %s: %w", address, err)
	}
	defer conn.Close()
	ask := &health.HealthCheckRequest{}
	if a.Service != nil {
		ask.Service = *a.Service
	}
	got, err := health.NewHealthClient(conn).Check(ctx, ask)
	if err != nil {
		return fmt.Errorf("gRPC probe: %w", err)
	}
	if got.Status != health.HealthCheckResponse_SERVING {
		return fmt.Errorf("gRPC probe answered %s", got.Status)
	}
	return nil
}
