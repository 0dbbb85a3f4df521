package peers

import (
	"testing"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// NATS calls its servers so.
func TestID(t *testing.T) {
	for _, name := range []string{"podsnap-10.0.0.1", "podsnap-10.0.0.4-abcdef"} {
		s, err := natsserver.NewServer(&natsserver.Options{ServerName: name, Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		defer s.Shutdown()
		if got := ID(name); got != s.Node() {
			t.Errorf("%s is %s, want %s", name, got, s.Node())
		}
	}
}
