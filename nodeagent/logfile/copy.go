package logfile

import (
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
)

// patience is how long a stream waits for a stuck disk before its lines are
// dropped, so that a log can hold a container up only for that long at a time.
const patience = 2 * time.Second

// Source is a stream to copy.
type Source struct {
	Stream Stream
	From   io.Reader
}

// Copy copies streams into w until all have ended. It never stops reading for
// good: when the log's disk is stuck or full, lines are dropped, and a line
// in the log says how many. The caller closes the sources to end it early.
func Copy(w *Writer, log *slog.Logger, sources ...Source) {
	queue := make(chan []Line, 64)
	var readers sync.WaitGroup
	for _, s := range sources {
		readers.Go(func() { pump(s, queue) })
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		drain(w, log, queue)
	}()
	readers.Wait()
	close(queue)
	<-done
}

// pump reads one stream into the queue.
func pump(s Source, queue chan<- []Line) {
	sp := splitter{stream: s.Stream}
	buf := make([]byte, 32<<10)
	dropped := 0
	rest := time.NewTimer(0)
	defer rest.Stop()
	<-rest.C
	for round := 0; ; {
		n, err := s.From.Read(buf)
		lines := sp.feed(buf[:n], time.Now())
		if err != nil {
			lines = append(lines, sp.finish()...)
		}
		if len(lines) > 0 {
			dropped = offer(queue, s.Stream, lines, dropped)
		}
		if err != nil {
			return
		}
		if round += n; n == len(buf) {
			continue // there is more
		}
		// A busy container is read in gulps: a wake-up for each of its lines
		// costs the machine more than the line.
		rest.Reset(pause(round))
		<-rest.C
		round = 0
	}
}

// gulp is how long lines are collected after a read: about as long as nobody who
// looks at them notices. A pipe holds many times what a container usually writes
// in it.
const gulp = 10 * time.Millisecond

// pause is the gulp after n bytes. Who writes that much soon has to wait for room.
func pause(n int) time.Duration {
	if n >= 32<<10 {
		return gulp / 10
	}
	return gulp
}

// offer queues lines, waiting for at most patience; after a drop it does not
// wait at all until there is room again. It answers with the count of lines
// dropped and not yet told of.
func offer(queue chan<- []Line, stream Stream, lines []Line, dropped int) int {
	if dropped > 0 {
		note := Line{Time: lines[0].Time, Stream: stream, Text: fmt.Appendf(nil, "[%d lines dropped: the log's disk was too slow]", dropped)}
		select {
		case queue <- append([]Line{note}, lines...):
			return 0
		default:
			return dropped + len(lines)
		}
	}
	select {
	case queue <- lines:
		return 0
	default:
	}
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case queue <- lines:
		return 0
	case <-t.C:
		return len(lines)
	}
}

func drain(w *Writer, log *slog.Logger, queue <-chan []Line) {
	failing := false
	for lines := range queue {
		err := w.Write(lines...)
		if err != nil && !failing {
			log.Warn("container log loses lines", slog.String("path", w.path), slog.Any("error", err))
		}
		failing = err != nil
	}
}
