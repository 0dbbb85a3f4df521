package daemon

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/internal/daemon/embedded"
)

// The store's process is told all that it needs, and nobody sees the secrets
// among its arguments.
func TestStoreSpec(t *testing.T) {
	c := Config{StateDir: t.TempDir(), NATS: "nats://elsewhere:4222", Log: quiet, Cluster: &embedded.Cluster{
		Self: "10.0.0.1", Members: []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}, EtcdPort: 1, NATSPort: 2, Cert: "crt", Key: "key", CA: "ca", Secret: "hush",
	}}
	if err := c.fill(); err != nil {
		t.Fatal(err)
	}
	c.RunDir = t.TempDir()
	if err := c.dirs(); err != nil {
		t.Fatal(err)
	}
	kid, err := newStoreChild(&c, "127.0.0.1:4222", "token")
	if err != nil {
		t.Fatal(err)
	}
	cmd, after, err := kid.command()
	if err != nil {
		t.Fatal(err)
	}
	after()
	want := storeSpec{Dir: c.path("store"), Socket: c.run("etcd.sock"), NATS: "127.0.0.1:4222", Token: "token", NoNATS: true, Cluster: c.Cluster}
	var got storeSpec
	for _, e := range cmd.Env {
		if spec, ok := strings.CutPrefix(e, storeEnv+"="); ok {
			if err := json.Unmarshal([]byte(spec), &got); err != nil {
				t.Fatal(err)
			}
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if args := strings.Join(cmd.Args, " "); strings.Contains(args, "token") || strings.Contains(args, "hush") || !strings.HasSuffix(args, StoreVerb) {
		t.Errorf("the arguments are %s", args)
	}
	if st, err := os.Stat(c.path("log", "store.log")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("its log: %v, %v", st, err)
	}
	if c.copies() != 0 {
		t.Error("copies are asked of an external NATS")
	}
	if c.NATS = ""; c.copies() != 3 {
		t.Error("a cluster's own NATS does not keep copies")
	}
}
