package invoke

import (
	"context"
	"crypto/tls"
	"io"
	"time"

	"github.com/podsnap/podsnap/gateway/wire"
)

// Asker is the side of an invocation that asks: a connection of the front's own
// loop, or a request that net/http has read. Its methods are called by one
// goroutine at a time, but for those of Body.
type Asker interface {
	// Context is done when the client is gone. It may cost a goroutine, so it
	// is asked for when an invocation takes its time.
	Context() context.Context
	// Body is the request's body; nil when there is none.
	Body() Body
	// Begin starts the answer. Its fields are not kept.
	Begin(*Head) error
	// Write adds to the answer's body. It may be held back until Flush.
	io.Writer
	// Flush sends what was held back.
	Flush() error
	// Finish ends the answer, with trailers if its length was not known.
	Finish(trailers []wire.Field) error
}

// Body is a request's body as it comes from the client. The head's Length says
// how long it is.
type Body interface {
	io.Reader
	// Trailers appends the fields that came after the body's end.
	Trailers([]wire.Field) []wire.Field
	// Deadline makes a Read fail that is not done by then.
	Deadline(time.Time)
	// Interrupt makes a Read fail that waits now in another goroutine, and later
	// ones.
	Interrupt()
}

// Head is the beginning of an answer.
type Head struct {
	Status int
	Fields []wire.Field // but what frames the body
	Length int64        // of the body; negative: not known
	Close  bool         // no request after this one
}

// Request is what is asked for.
type Request struct {
	*wire.Request
	Remote []byte // the client's address, without a port; empty: not known
	TLS    *tls.ConnectionState
}
