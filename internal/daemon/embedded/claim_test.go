package embedded

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func three(change func(*Cluster)) *Cluster {
	c := &Cluster{
		Self: "10.0.0.1", Members: []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"},
		Cert: "crt", Key: "key", CA: "ca", Secret: "s",
	}
	if change != nil {
		change(c)
	}
	return c
}

func TestValidate(t *testing.T) {
	for _, k := range []struct {
		name   string
		change func(*Cluster)
		says   []string // nothing: it is right
	}{
		{"right", nil, nil},
		{"IPv6", func(c *Cluster) { c.Members[2] = "fd00::3" }, nil},
		{"two", func(c *Cluster) { c.Members = c.Members[:2] }, []string{"at least three"}},
		{"not among them", func(c *Cluster) { c.Self = "10.0.0.9" }, []string{"10.0.0.9", "not among"}},
		{"twice", func(c *Cluster) { c.Members[2] = "10.0.0.2" }, []string{"named twice"}},
		{"a name, and no secret", func(c *Cluster) { c.Members[2], c.Secret = "three.example", "" }, []string{"three.example", "secret"}},
		{"nowhere", func(c *Cluster) { c.Members[2] = "0.0.0.0" }, []string{"0.0.0.0"}},
		{"no files", func(c *Cluster) { c.Cert, c.Key, c.CA = "", "", "" }, []string{"certificate", "key", "authority"}},
	} {
		err := three(k.change).Validate()
		if len(k.says) == 0 && err != nil {
			t.Errorf("%s: %v", k.name, err)
		}
		for _, s := range k.says {
			if err == nil || !strings.Contains(err.Error(), s) {
				t.Errorf("%s: %v, want it to say %q", k.name, err, s)
			}
		}
	}
}

// Data is used by those alone whose it is.
func TestClaim(t *testing.T) {
	for _, k := range []struct {
		name        string
		first, then *Cluster
		says        string // "": it is theirs
	}{
		{"alone and again", nil, nil, ""},
		{"a member and again", three(nil), three(nil), ""},
		{"in another order", three(nil), three(func(c *Cluster) { c.Members = []string{"10.0.0.3", "10.0.0.1", "10.0.0.2"} }), ""},
		{"alone, then a member", nil, three(nil), "one server's alone"},
		{"a member, then alone", three(nil), nil, "10.0.0.1, a member of 10.0.0.1, 10.0.0.2, 10.0.0.3"},
		{"another member's disk", three(nil), three(func(c *Cluster) { c.Self = "10.0.0.2" }), "that of 10.0.0.1"},
		{"other members", three(nil), three(func(c *Cluster) { c.Members[2] = "10.0.0.4" }), "10.0.0.3"},
	} {
		dir := t.TempDir()
		if err := claim(dir, k.first); err != nil {
			t.Errorf("%s: the first start: %v", k.name, err)
		}
		if err := os.Mkdir(filepath.Join(dir, "nats"), 0o700); err != nil {
			t.Fatal(err)
		}
		err := claim(dir, k.then)
		if k.says == "" && err != nil || k.says != "" && (err == nil || !strings.Contains(err.Error(), k.says)) {
			t.Errorf("%s: %v, want %q", k.name, err, k.says)
		}
	}
}

// Members that have changed are those that count, whether a member is started with the
// list that it began with or with the new one.
func TestClaimAfterChange(t *testing.T) {
	dir := t.TempDir()
	next := []string{"10.0.0.1", "10.0.0.2", "10.0.0.4"}
	if err := claim(dir, three(nil)); err != nil {
		t.Fatal(err)
	}
	if err := Remember(dir, next); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Cluster{three(nil), three(func(c *Cluster) { c.Members = next })} {
		if err := claim(dir, c); err != nil || !slices.Equal(c.Members, next) || c.name != NATSName("10.0.0.1") {
			t.Errorf("%v: the members are %v, NATS is %s; want %v", err, c.Members, c.name, next)
		}
	}
	if err := claim(dir, three(func(c *Cluster) { c.Members[2] = "10.0.0.5" })); err == nil || !strings.Contains(err.Error(), "10.0.0.4") {
		t.Errorf("others: %v, want it to name the members of now", err)
	}
}

// One that joins is called by the same name at its next start, however many members
// there are by then.
func TestClaimOfOneThatJoins(t *testing.T) {
	dir := t.TempDir()
	joins := func(members ...string) *Cluster {
		return three(func(c *Cluster) { c.Members, c.Joining, c.NATSName = members, true, NewNATSName(c.Self) })
	}
	first, second := joins("10.0.0.1", "10.0.0.2", "10.0.0.3"), joins("10.0.0.1", "10.0.0.2")
	for _, c := range []*Cluster{first, second} {
		if err := errors.Join(c.Validate(), claim(dir, c)); err != nil {
			t.Fatal(err)
		}
	}
	if k, err := Look(dir); err != nil || k.NATS != first.NATSName || second.name != first.NATSName || k.Data || !slices.Equal(k.Members, second.Members) {
		t.Errorf("known is %+v, %v; want the name %s", k, err, first.NATSName)
	}
	alone := t.TempDir()
	if err := os.Mkdir(filepath.Join(alone, "nats"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := claim(alone, first); err == nil {
		t.Error("one server's data joins others")
	}
}

// A member that ended between its claim and its first data goes on.
func TestClaimBeforeData(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		if err := claim(dir, three(nil)); err != nil {
			t.Fatal(err)
		}
	}
	if err := claim(dir, nil); err == nil {
		t.Error("it may go on alone")
	}
}
