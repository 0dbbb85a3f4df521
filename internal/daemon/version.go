package daemon

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/podsnap/podsnap/internal/join"
	"github.com/podsnap/podsnap/internal/skew"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// versioned serves h to parts of versions that work together with this one, and
// says in every answer which one this is. fault tells why who asks is none of them.
func versioned(h http.Handler, header, release string, fault func(self string, asked http.Header) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(header, release)
		if err := fault(release, r.Header); err != nil {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			_ = json.NewEncoder(w).Encode(metav1.Status{ // who has gone can't be told
				TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
				Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden, Message: err.Error(),
			})
			return
		}
		h.ServeHTTP(w, r)
	})
}

// acquaintance is what a node knows of the version of its servers, from their
// answers.
type acquaintance struct {
	release string // of the node
	log     *slog.Logger
	next    http.RoundTripper

	mu     sync.Mutex
	server string // release; "": no answer has said any
	fault  error  // why they don't work together
}

// RoundTrip implements http.RoundTripper.
func (a *acquaintance) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := a.next.RoundTrip(r)
	if err == nil {
		a.saw(resp.Header.Get(skew.Server))
	}
	return resp, err
}

// CloseIdleConnections is what http.Client's calls.
func (a *acquaintance) CloseIdleConnections() {
	if c, ok := a.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func (a *acquaintance) saw(server string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if server == "" || server == a.server {
		return
	}
	a.server, a.fault = server, skew.Nodes(server, a.release)
	if a.fault != nil {
		a.log.Error("this node does nothing for its server any more: their versions are too far apart", slog.Any("reason", a.fault))
	} else {
		a.log.Info("the server's version", slog.String("server", server), slog.String("node", a.release))
	}
}

// ask finds the servers' version out, if one of them answers soon, and tells
// whether this node works with it.
func (a *acquaintance) ask(ctx context.Context, client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, _ = join.AskServers(ctx, client, url) // a node starts without a server too
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.fault
}
