package daemon

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/gateway/async"
	"github.com/podsnap/podsnap/internal/openfaas"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

func TestQueueFault(t *testing.T) {
	if err := queueFault(nil, 1); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		err error
		is  func(error) bool
	}{
		{fmt.Errorf("%w: 7", async.ErrNoDeadLetter), apierrors.IsNotFound},
		{fmt.Errorf("dead letter 7: %w", async.ErrUnreadable), apierrors.IsConflict},
		{async.ErrFull, apierrors.IsServiceUnavailable},
		{errors.New("nats: timeout"), apierrors.IsServiceUnavailable},
	} {
		if got := queueFault(c.err, 7); !c.is(got) {
			t.Errorf("%v became %v", c.err, got)
		}
	}
}

func TestDeadLetter(t *testing.T) {
	at := time.Unix(5, 0)
	got := deadLetter(async.DeadLetter{
		Seq: 3, Time: at, Subject: "podsnap.dead.dev.resize", Reason: "503", Attempts: 10, Status: 503, Size: 9, Call: &async.Call{ID: "a"},
	})
	want := openfaas.DeadLetter{Seq: 3, CallID: "a", Name: "resize", Namespace: "dev", Reason: "503", Attempts: 10, Status: 503, Time: at, Size: 9}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got := deadLetter(async.DeadLetter{Subject: "podsnap.dead.dev.resize"}); got.CallID != "" || got.Name != "resize" {
		t.Errorf("one that can't be read: %+v", got)
	}
}
