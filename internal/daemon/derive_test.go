package daemon

import (
	"bytes"
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// tokened is the configuration of one server of those that share a token.
func tokened(t *testing.T, dir, token string) (Config, error) {
	t.Helper()
	c := Config{StateDir: dir, RunDir: filepath.Join(dir, "run"), Etcd: []string{"http://e:2379"}, NATS: "nats://n:4222", ServerToken: token}
	if err := c.fill(); err != nil {
		t.Fatal(err)
	}
	if err := c.dirs(); err != nil {
		t.Fatal(err)
	}
	return c, c.takeToken()
}

// Servers of one token have one authority, to the byte, and the same secrets;
// those of another have others. What one has signed is good for the other.
func TestServersShare(t *testing.T) {
	token := ServerToken()
	var cas [][]byte
	var passwords, ids []string
	for _, tok := range []string{token, token, ServerToken()} {
		c, err := tokened(t, t.TempDir(), tok)
		if err != nil {
			t.Fatal(err)
		}
		_, _, ca, err := c.authority()
		if err != nil {
			t.Fatal(err)
		}
		p, err := c.secret("basic-auth-password")
		if err != nil {
			t.Fatal(err)
		}
		other, err := c.secret("api-token")
		if err != nil || p == other {
			t.Fatalf("two secrets are %q and %q, %v", p, other, err)
		}
		id, err := c.serverID()
		if err != nil || slices.Contains(ids, id) {
			t.Fatalf("the id %q is another server's too, %v", id, err)
		}
		ids = append(ids, id)
		cas, passwords = append(cas, ca), append(passwords, p)
		pair, err := c.control()
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(cas[0])
		_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: time.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		if same := tok == token; (err == nil) != same {
			t.Errorf("a certificate of the token's own servers %v: %v", same, err)
		}
	}
	if !bytes.Equal(cas[0], cas[1]) || passwords[0] != passwords[1] {
		t.Error("two servers of one token have different authorities or passwords")
	}
	if bytes.Equal(cas[0], cas[2]) || passwords[0] == passwords[2] {
		t.Error("servers of two tokens have the same")
	}
}

func TestTakeToken(t *testing.T) {
	fresh := t.TempDir()
	first, err := tokened(t, fresh, "") // makes one up
	if err != nil || first.root == nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile(filepath.Join(fresh, "auth", "server-token"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := tokened(t, fresh, strings.TrimSpace(string(kept)))
	if err != nil || !bytes.Equal(again.root.secret, first.root.secret) {
		t.Errorf("the token that it had, given: %v", err)
	}
	if _, err := tokened(t, fresh, ServerToken()); err == nil || !strings.Contains(err.Error(), "another cluster") {
		t.Errorf("another token: %v", err)
	}

	old := t.TempDir()
	c := Config{StateDir: old, RunDir: filepath.Join(old, "run")}
	if err := c.fill(); err != nil {
		t.Fatal(err)
	}
	if err := c.dirs(); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := c.authority(); err != nil {
		t.Fatal(err)
	}
	if c, err := tokened(t, old, ""); err != nil || c.root != nil {
		t.Errorf("one that began without a token: %v, root %v", err, c.root)
	}
	if _, err := tokened(t, old, ServerToken()); err == nil || !strings.Contains(err.Error(), "begun without") {
		t.Errorf("a token for one that began without: %v", err)
	}
}
