package main

import (
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
)

// TestWhyTable: what a person reads of a cold call that failed.
func TestWhyTable(t *testing.T) {
	var b strings.Builder
	(&options{}).why(&b, openfaas.Call{
		ID: "c1", Name: "hi", Namespace: "openfaas-fn", Time: time.Unix(1, 0).UTC(), Kept: []string{"cold", "failed"}, Status: 504,
		Text: "function hi: no answer", Replica: "hi-1", Address: "10.0.0.1:8080", Ahead: 3, Retries: 1, Seconds: 2.5,
		Stages: []openfaas.CallStage{{Name: openfaas.StageQueued, At: 0.000004}, {Name: openfaas.StageReady, At: 0.02}, {Name: openfaas.StageGranted, At: 0.0205}},
	})
	want := `Call:	c1
Function:	hi
Came:	1970-01-01T00:00:01Z
Answer:	504 after 2.5s
Remembered as:	cold, failed
Replica:	hi-1 at 10.0.0.1:8080
Ahead in the queue:	3
Replicas that refused:	1
Reason:	function hi: no answer

STAGE	AT	TOOK	MEANING
queued	4µs	4µs	no replica had a free place; reading a small body is part of it
ready	20ms	20ms	the node started it and it took a connection
granted	20.5ms	500µs	the call got its place on a replica
end	2.5s	2.48s	all of the answer was sent, or the call was given up
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}
