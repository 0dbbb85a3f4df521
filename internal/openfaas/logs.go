package openfaas

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"strconv"
	"time"
)

// LogQuery selects log lines of one function.
type LogQuery struct {
	Namespace string
	Name      string
	Instance  string    // a replica's name; "" is all
	Tail      int       // the last so many lines of each replica; 0 or less is all
	Since     time.Time // zero: no limit when Tail is set, otherwise the last five minutes
	Follow    bool      // go on until the context is done
}

// Logs streams log lines, oldest first. The sequence ends with the stream; an
// error comes last, with a zero line.
func (c *Client) Logs(ctx context.Context, q LogQuery) iter.Seq2[LogLine, error] {
	v := inNamespace(q.Namespace)
	v.Set("name", q.Name)
	v.Set("follow", strconv.FormatBool(q.Follow))
	if q.Instance != "" {
		v.Set("instance", q.Instance)
	}
	if q.Tail > 0 {
		v.Set("tail", strconv.Itoa(q.Tail))
	}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.UTC().Format(time.RFC3339))
	}
	op := "logs of " + q.Name
	return func(yield func(LogLine, error) bool) {
		resp, err := c.open(ctx, call{op: op, method: http.MethodGet, path: "/system/logs", query: v})
		if err != nil {
			yield(LogLine{}, err)
			return
		}
		defer resp.Body.Close()
		s := bufio.NewScanner(resp.Body)
		s.Buffer(nil, 4<<20)
		for s.Scan() {
			var l LogLine
			if len(s.Bytes()) == 0 {
				continue
			}
			if err := json.Unmarshal(s.Bytes(), &l); err != nil {
				yield(LogLine{}, fmt.Errorf("%s: %w", op, err))
				return
			}
			if !yield(l, nil) {
				return
			}
		}
		if err := s.Err(); err != nil && ctx.Err() == nil {
			yield(LogLine{}, fmt.Errorf("%s: %w", op, err))
		}
	}
}
