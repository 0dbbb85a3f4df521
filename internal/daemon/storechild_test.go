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
	c := Config{
		StateDir: t.TempDir(), Log: quiet, ServerToken: ServerToken(), APIListen: "0.0.0.0:6443",
		Servers: []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}, NodeIP: "10.0.0.2",
	}
	if err := c.fill(); err != nil {
		t.Fatal(err)
	}
	c.RunDir = t.TempDir()
	if err := c.dirs(); err != nil {
		t.Fatal(err)
	}
	if err := c.takeToken(); err != nil {
		t.Fatal(err)
	}
	kid, err := newStoreChild(&c, "127.0.0.1:4222", "token", "admin")
	if err != nil {
		t.Fatal(err)
	}
	cmd, after, err := kid.command()
	if err != nil {
		t.Fatal(err)
	}
	after()
	want := storeSpec{Dir: c.path("store"), Socket: c.run("etcd.sock"), NATS: "127.0.0.1:4222", Token: "token", Admin: "admin", Cluster: c.member()}
	if want.Cluster.Self != "10.0.0.2" || want.Cluster.Secret == "" || want.Cluster.CA == c.path("auth", "ca.crt") {
		t.Errorf("the member is %+v", want.Cluster)
	}
	var got storeSpec
	for _, e := range cmd.Env {
		if spec, ok := strings.CutPrefix(e, storeEnv+"="); ok {
			if err := json.Unmarshal([]byte(spec), &got); err != nil {
				t.Fatal(err)
			}
		}
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(embedded.Cluster{})); d != "" {
		t.Error(d)
	}
	if args := strings.Join(cmd.Args, " "); strings.Contains(args, "token") || strings.Contains(args, "admin") || strings.Contains(args, want.Cluster.Secret) || !strings.HasSuffix(args, StoreVerb) {
		t.Errorf("the arguments are %s", args)
	}
	if st, err := os.Stat(c.path("log", "store.log")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("its log: %v, %v", st, err)
	}
	if n := c.natsCopies(); n != 3 {
		t.Errorf("the cluster's NATS keeps %d copies, want 3", n)
	}
}
