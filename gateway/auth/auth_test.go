package auth_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podsnap/podsnap/gateway/auth"
	"github.com/podsnap/podsnap/test/bubble"
)

func guard(t *testing.T, c auth.Config) http.Handler {
	t.Helper()
	a, err := auth.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return a.Wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
}

func try(h http.Handler, header string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "/system/functions", nil)
	if header != "" {
		r.Header.Set("Authorization", header)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func basic(user, password string) string {
	r := &http.Request{Header: http.Header{}}
	r.SetBasicAuth(user, password)
	return r.Header.Get("Authorization")
}

func TestWrap(t *testing.T) {
	on, off := auth.Config{User: "admin", Password: "secret"}, auth.Config{Disabled: true}
	for _, tt := range []struct {
		name, header string
		c            auth.Config
		want         int
	}{
		{"right", basic("admin", "secret"), on, 200},
		{"wrong password", basic("admin", "secres"), on, 401},
		{"wrong user", basic("root", "secret"), on, 401},
		{"empty", basic("", ""), on, 401},
		{"nothing", "", on, 401},
		{"logged-out client", "Bearer ", on, 401},
		{"token", "Bearer secret", on, 401},
		{"not base64", "Basic %%%", on, 401},
		{"off", "", off, 200},
		{"off, logged-out client", "Bearer ", off, 200},
		{"off, wrong password", basic("admin", "x"), off, 200},
	} {
		w := try(guard(t, tt.c), tt.header)
		if w.Code != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, w.Code, tt.want)
		}
		if w.Code == 401 && (w.Header().Get("WWW-Authenticate") != `Basic realm="Restricted"` || strings.TrimSpace(w.Body.String()) != "invalid credentials") {
			t.Errorf("%s: %v %q", tt.name, w.Header(), w.Body)
		}
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	user, password := filepath.Join(dir, "basic-auth-user"), filepath.Join(dir, "basic-auth-password")
	for f, v := range map[string]string{user: "admin\n", password: " secret\n"} {
		if err := os.WriteFile(f, []byte(v), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h := guard(t, auth.Config{UserFile: user, PasswordFile: password})
	if w := try(h, basic("admin", "secret")); w.Code != 200 {
		t.Errorf("got %d", w.Code)
	}
	for _, c := range []auth.Config{{}, {User: "admin"}, {User: "admin", PasswordFile: filepath.Join(dir, "none")}} {
		if _, err := auth.New(c); err == nil {
			t.Errorf("%+v made an open gateway", c)
		}
	}
}

func TestGuessing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		h := guard(t, auth.Config{User: "admin", Password: "secret"})
		start := time.Now()
		for range 5 {
			try(h, basic("admin", "guess"))
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("the first mistakes took %s", d)
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() { try(h, basic("admin", "guess")) })
		}
		synctest.Wait()
		if w := try(h, basic("admin", "guess")); w.Code != 429 {
			t.Errorf("one more guess at once: %d", w.Code)
		}
		wg.Wait()
		if d := time.Since(start); d < time.Second {
			t.Errorf("8 guesses took %s", d)
		}
		start = time.Now()
		if w := try(h, basic("admin", "secret")); w.Code != 200 || time.Since(start) != 0 {
			t.Errorf("the right password: %d after %s", w.Code, time.Since(start))
		}
		time.Sleep(2 * time.Minute)
		start = time.Now()
		if try(h, basic("admin", "guess")); time.Since(start) != 0 {
			t.Error("old mistakes still count")
		}
	})
}
