package probe

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/podsnap/podsnap/test/bubble"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// A port that can be watched is ready when it is listened on, without a try, and
// is tried only when that takes long. One that nobody can watch is tried
// again and again.
func TestListening(t *testing.T) {
	for _, c := range []struct {
		name     string
		watched  bool
		open     time.Duration
		ready    time.Duration // at most
		attempts int           // at most
	}{
		{"seen at once", true, 3 * time.Millisecond, 3 * time.Millisecond, 0},
		{"a slow start", true, 2500 * time.Millisecond, 2500 * time.Millisecond, 2},
		{"nobody can tell", false, 3 * time.Millisecond, 5 * time.Millisecond, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				begin, attempts := time.Now(), 0
				p := &Prober{Dial: func(context.Context, string, string) (net.Conn, error) {
					attempts++
					if time.Since(begin) < c.open {
						return nil, errors.New("refused")
					}
					near, far := net.Pipe()
					far.Close()
					return near, nil
				}}
				target := Target{IP: "192.0.2.1", Listening: func(ctx context.Context, port int32) error {
					if !c.watched {
						return errors.New("another runtime")
					}
					if port != 80 {
						t.Errorf("asked for port %d", port)
					}
					select {
					case <-ctx.Done():
						return context.Cause(ctx)
					case <-time.After(time.Until(begin.Add(c.open))):
						return nil
					}
				}}
				ctx, cancel := context.WithCancel(t.Context())
				set := Set{Since: begin, Readiness: &corev1.Probe{
					PeriodSeconds: 10, TimeoutSeconds: 1, SuccessThreshold: 1,
					ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(80)}},
				}}
				p.Watch(ctx, set, target, func(r Result) {
					if !r.OK {
						return
					}
					if d := time.Since(begin); d < c.open || d > c.ready {
						t.Errorf("ready after %v, want %v to %v", d, c.open, c.ready)
					}
					cancel()
				})
				if attempts > c.attempts {
					t.Errorf("%d connections were tried, want %d at most", attempts, c.attempts)
				}
			})
		})
	}
}
