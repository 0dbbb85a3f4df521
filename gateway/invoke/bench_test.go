package invoke_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/podsnap/podsnap/gateway/invoke"
)

// BenchmarkHop compares a call through the gateway with a direct one, over
// loopback: the difference is the gateway's. Client and function are in the
// same process and count in allocs/op too; so compare, don't add.
func BenchmarkHop(b *testing.B) {
	r := newRig(b, invoke.Config{})
	srv, e := r.replica("a", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	r.ready(e)
	for _, target := range []struct{ name, url string }{{"direct", srv.URL}, {"gateway", r.url}} {
		get := func(b *testing.B) {
			req, err := http.NewRequest("GET", target.url, nil)
			if err != nil {
				b.Fatal(err)
			}
			resp, err := r.client.Do(req)
			if err != nil {
				b.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 {
				b.Fatalf("status %d", resp.StatusCode)
			}
		}
		b.Run(target.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				get(b)
			}
		})
		b.Run(target.name+",parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(16)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					get(b)
				}
			})
		})
	}
}
