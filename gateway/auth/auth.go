// Package auth guards the gateway's own API with HTTP basic authentication.
package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// Config says who may. Without Disabled a user and a password are required.
type Config struct {
	Disabled bool

	User         string
	Password     string
	UserFile     string // read by New when User is empty; blanks around it don't count
	PasswordFile string // the same for Password
}

// Auth is the guard.
type Auth struct {
	off            bool
	user, password [sha256.Size]byte
	slow           *slow
}

// New makes the guard.
func New(c Config) (*Auth, error) {
	if c.Disabled {
		return &Auth{off: true}, nil
	}
	user, err := value(c.User, c.UserFile)
	if err != nil {
		return nil, fmt.Errorf("auth: user: %w", err)
	}
	password, err := value(c.Password, c.PasswordFile)
	if err != nil {
		return nil, fmt.Errorf("auth: password: %w", err)
	}
	return &Auth{user: sha256.Sum256([]byte(user)), password: sha256.Sum256([]byte(password)), slow: newSlow()}, nil
}

func value(v, file string) (string, error) {
	if v == "" && file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		v = strings.TrimSpace(string(b))
	}
	if v == "" {
		return "", errors.New("it is empty: set one, or switch authentication off")
	}
	return v, nil
}

// Wrap lets only those through to h who may. Both comparisons take place, over
// digests, so that the time tells nothing.
func (a *Auth) Wrap(h http.Handler) http.Handler {
	if a.off {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !a.slow.enter(r) {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many attempts to log in", http.StatusTooManyRequests)
			return
		}
		user, password, ok := r.BasicAuth()
		u, p := sha256.Sum256([]byte(user)), sha256.Sum256([]byte(password))
		right := subtle.ConstantTimeCompare(u[:], a.user[:]) & subtle.ConstantTimeCompare(p[:], a.password[:])
		if ok && right == 1 {
			h.ServeHTTP(w, r)
			return
		}
		if ok { // nobody guesses without credentials
			a.slow.wait(r)
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="Restricted"`)
		http.Error(w, "invalid credentials", http.StatusUnauthorized)
	})
}

// Limits for one address. The first few mistakes are free: scripts with an old
// password should not be slow to say so.
const (
	freeFailures = 5
	failureDelay = time.Second
	maxDelayed   = 8 // answers held back at once; then it is refused unheard
	forget       = time.Minute
	maxAddresses = 10_000
)

// slow holds back answers to failed attempts, per address. Who knows the
// password is not held back.
type slow struct {
	mu   sync.Mutex
	from map[string]*attempts
}

type attempts struct {
	failures, delayed int
	last              time.Time
}

func newSlow() *slow { return &slow{from: map[string]*attempts{}} }

func address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// enter is false while too many answers to this address are held back.
func (s *slow) enter(r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.from[address(r)]
	return a == nil || a.delayed < maxDelayed
}

// wait counts a failure and returns when it may be answered.
func (s *slow) wait(r *http.Request) {
	a, delay := s.failed(address(r), time.Now())
	if !delay {
		return
	}
	t := time.NewTimer(failureDelay)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.Context().Done():
	}
	s.mu.Lock()
	a.delayed--
	s.mu.Unlock()
}

func (s *slow) failed(from string, now time.Time) (a *attempts, delay bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a = s.from[from]
	if a == nil || a.delayed == 0 && now.Sub(a.last) > forget {
		if len(s.from) >= maxAddresses {
			s.drop(now)
		}
		a = &attempts{}
		s.from[from] = a
	}
	a.failures++
	a.last = now
	if a.failures <= freeFailures {
		return a, false
	}
	a.delayed++
	return a, true
}

// drop makes room.
func (s *slow) drop(now time.Time) {
	for k, a := range s.from {
		if a.delayed == 0 && (now.Sub(a.last) > forget || len(s.from) >= maxAddresses) {
			delete(s.from, k)
		}
	}
}
