package invoke

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Component is what the gateway calls itself in X-OpenFaaS-Internal.
const Component = "gateway"

// statusClientGone counts invocations whose client left before the answer
// began; nobody receives it.
const statusClientGone = 499

// errGone: the client does not take the answer.
var errGone = errors.New("the client is gone")

// refusal is an answer of the gateway's own.
type refusal struct {
	status     int
	reason     string // one word, for the metric
	text       string
	retryAfter time.Duration // 0: no such header
	ends       bool          // the client's connection: what it still sends is not wanted
}

func (r *refusal) Error() string { return r.text }

// HTTPStatus is the status of the answer.
func (r *refusal) HTTPStatus() int { return r.status }

func label(k types.NamespacedName) string { return k.Name + "." + k.Namespace }

func notFound(k types.NamespacedName) *refusal {
	return &refusal{status: http.StatusNotFound, reason: "not_found", text: fmt.Sprintf("error finding function %s: not found, deploy it first", label(k))}
}

func queueFull(k types.NamespacedName, n int, again time.Duration) *refusal {
	return &refusal{
		status: http.StatusTooManyRequests, reason: "queue_full", retryAfter: again,
		text: fmt.Sprintf("function %s: %d requests are waiting for a replica already, try again later", label(k), n),
	}
}

func hopeless(k types.NamespacedName, wait, again time.Duration) *refusal {
	return &refusal{
		status: http.StatusServiceUnavailable, reason: "hopeless", retryAfter: again,
		text: fmt.Sprintf("function %s: the wait for a replica would be about %s, longer than the request may wait", label(k), wait.Round(time.Millisecond)),
	}
}

func unavailable(k types.NamespacedName, why string) *refusal {
	return &refusal{
		status: http.StatusServiceUnavailable, reason: "unavailable", retryAfter: time.Second,
		text: fmt.Sprintf("function %s: %s", label(k), why),
	}
}

func tooLarge(k types.NamespacedName, limit int64) *refusal {
	return &refusal{
		status: http.StatusRequestEntityTooLarge, reason: "body_too_large", ends: true,
		text: fmt.Sprintf("function %s: the request's body is larger than %d bytes", label(k), limit),
	}
}

func timedOut(k types.NamespacedName, limit time.Duration) *refusal {
	return &refusal{
		status: http.StatusGatewayTimeout, reason: "timeout",
		text: fmt.Sprintf("function %s: no answer within its time limit of %s; the gateway ended the request", label(k), limit),
	}
}

func badBody(err error) *refusal {
	return &refusal{status: http.StatusBadRequest, reason: "bad_body", ends: true, text: fmt.Sprintf("the request's body can't be read: %v", err)}
}

func badMethod(method []byte) *refusal {
	return &refusal{status: http.StatusMethodNotAllowed, reason: "method", text: "functions are called with " + allowed + ", not " + string(method)}
}

func badPath(err error) *refusal {
	return &refusal{status: http.StatusBadRequest, reason: "bad_path", text: err.Error()}
}

func badAnswer(k types.NamespacedName, e *endpoint, err error) *refusal {
	return &refusal{
		status: http.StatusBadGateway, reason: "bad_gateway",
		text: fmt.Sprintf("function %s: replica %s (%s) ended the request without a whole answer: %v", label(k), e.Name, e.Address, err),
	}
}
