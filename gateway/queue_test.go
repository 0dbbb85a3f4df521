package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/gateway"
	"github.com/podsnap/podsnap/gateway/dialect"
	"github.com/podsnap/podsnap/internal/openfaas"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// letters is a queue with one dead letter that writes down what it is asked.
func letters(asked *[]string) dialect.Queue {
	note := func(format string, a ...any) { *asked = append(*asked, fmt.Sprintf(format, a...)) }
	resource := schema.GroupResource{Resource: "dead-letters"}
	return dialect.Queue{
		Pending: func(context.Context) ([]openfaas.PendingCalls, error) {
			return []openfaas.PendingCalls{{Name: "b", Namespace: "dev", Pending: 1}, {Name: "b", Namespace: "aaa", Pending: 2}, {Name: "a", Namespace: "dev", Pending: 3}}, nil
		},
		DeadLetters: func(_ context.Context, f types.NamespacedName, from uint64, limit int) ([]openfaas.DeadLetter, error) {
			note("%s from %d limit %d", f, from, limit)
			if f.Name == "broken" {
				return nil, apierrors.NewServiceUnavailable("NATS is away")
			}
			if f.Name == "none" {
				return nil, nil
			}
			return []openfaas.DeadLetter{{
				Seq: 7, CallID: "x-1", Name: "a", Namespace: "dev", Reason: "answered 503", Attempts: 10, Status: 503, Time: time.Unix(0, 0).UTC(), Size: 5,
			}}, nil
		},
		Redrive: func(_ context.Context, seq uint64) error {
			note("redrive %d", seq)
			switch seq {
			case 8:
				return apierrors.NewNotFound(resource, "8")
			case 9:
				return apierrors.NewConflict(resource, "9", errors.New("it can't be called"))
			}
			return nil
		},
	}
}

func TestQueue(t *testing.T) {
	var asked []string
	r := newRig(t, func(c *gateway.Config) { c.Queue = letters(&asked) })
	const one = `[{"seq":7,"callId":"x-1","name":"a","namespace":"dev","reason":"answered 503","attempts":10,"status":503,"time":"1970-01-01T00:00:00Z","size":5}]`
	const path = "/system/async/dead-letters"
	for _, tt := range []struct {
		method, path string
		status       int
		text         string
		asked        string
	}{
		{"GET", "/system/async/pending", 200, `[{"name":"b","namespace":"aaa","pending":2},{"name":"a","namespace":"dev","pending":3},{"name":"b","namespace":"dev","pending":1}]`, ""},
		{"GET", "/system/async/pending?namespace=dev&name=a", 200, `[{"name":"a","namespace":"dev","pending":3}]`, ""},
		{"GET", "/system/async/pending?namespace=nope", 200, "[]", ""},
		{"GET", "/system/async/pending?namespace=..", 400, "namespace", ""},
		{"GET", path, 200, one, "/ from 0 limit 100"},
		{"GET", path + "?namespace=&name=&limit=&from=", 200, one, "/ from 0 limit 100"},
		{"GET", path + "?namespace=dev", 200, one, "dev/ from 0 limit 100"},
		{"GET", path + "?name=a", 200, one, "openfaas-fn/a from 0 limit 100"},
		{"GET", path + "?name=a&namespace=dev&from=18446744073709551615&limit=5", 200, one, "dev/a from 18446744073709551615 limit 5"},
		{"GET", path + "?limit=1000000", 200, one, "/ from 0 limit 1000"},
		{"GET", path + "?name=none", 200, "[]", "openfaas-fn/none from 0 limit 100"},
		{"GET", path + "?name=broken", 503, "NATS is away", "openfaas-fn/broken from 0 limit 100"},
		{"GET", path + "?limit=0", 400, "limit", ""},
		{"GET", path + "?limit=x", 400, "limit", ""},
		{"GET", path + "?from=-1", 400, "from", ""},
		{"GET", path + "?name=a.*", 400, "function name", ""},
		{"GET", path + "?namespace=%3E", 400, "namespace", ""},
		{"POST", path, 405, "", ""},
		{"POST", path + "/7/redrive", 202, "", "redrive 7"},
		{"POST", path + "/8/redrive", 404, `dead-letters "8" not found`, "redrive 8"},
		{"POST", path + "/9/redrive", 409, "it can't be called", "redrive 9"},
		{"POST", path + "/0/redrive", 400, "number of a dead letter", ""},
		{"POST", path + "/x/redrive", 400, "number of a dead letter", ""},
		{"GET", path + "/7/redrive", 405, "", ""},
	} {
		asked = nil
		status, body, _ := r.call(tt.method, tt.path, "")
		if status != tt.status || !strings.Contains(body, tt.text) || strings.Join(asked, ";") != tt.asked {
			t.Errorf("%s %s: %d %q after %q, want %d %q after %q", tt.method, tt.path, status, body, asked, tt.status, tt.text, tt.asked)
		}
	}
	for _, p := range []string{"/system/async/pending", path, path + "/7/redrive"} {
		method := "GET"
		if strings.HasSuffix(p, "redrive") {
			method = "POST"
		}
		req, err := http.NewRequestWithContext(t.Context(), method, r.url+p, nil)
		if err != nil {
			t.Fatal(err)
		}
		if status, _, _ := r.do(req); status != 401 {
			t.Errorf("%s %s without a password: %d", method, p, status)
		}
	}
}

func TestQueueClient(t *testing.T) {
	var asked []string
	r := newRig(t, func(c *gateway.Config) { c.Queue = letters(&asked) })
	got, err := r.client.DeadLetters(t.Context(), openfaas.DeadLetterQuery{Namespace: "dev", Name: "a", From: 3, Limit: 4})
	want := []openfaas.DeadLetter{{Seq: 7, CallID: "x-1", Name: "a", Namespace: "dev", Reason: "answered 503", Attempts: 10, Status: 503, Time: time.Unix(0, 0).UTC(), Size: 5}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(err, d)
	}
	pending, err := r.client.PendingCalls(t.Context(), "aaa")
	if d := cmp.Diff([]openfaas.PendingCalls{{Name: "b", Namespace: "aaa", Pending: 2}}, pending); d != "" || err != nil {
		t.Error(err, d)
	}
	if err := r.client.Redrive(t.Context(), 7); err != nil {
		t.Error(err)
	}
	if err := r.client.Redrive(t.Context(), 8); !openfaas.IsNotFound(err) {
		t.Error(err)
	}
	if d := cmp.Diff([]string{"dev/a from 3 limit 4", "redrive 7", "redrive 8"}, asked); d != "" {
		t.Error(d)
	}
}

func TestNoQueue(t *testing.T) {
	r := newRig(t, nil)
	for path, method := range map[string]string{"pending": "GET", "dead-letters": "GET", "dead-letters/1/redrive": "POST"} {
		if status, body, _ := r.call(method, "/system/async/"+path, ""); status != 501 || !strings.Contains(body, "no queue") {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
}
