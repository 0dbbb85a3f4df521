package rules

import "context"

type warnKey struct{}

// Warned is ctx in which those who judge a write can tell who asked for it something
// that is no reason to refuse it. A text may come more than once.
func Warned(ctx context.Context, tell func(text string)) context.Context {
	return context.WithValue(ctx, warnKey{}, tell)
}

// Warn tells who asked for the write in ctx a text; nobody if nobody listens, as with
// what the platform writes itself.
func Warn(ctx context.Context, text string) {
	if tell, ok := ctx.Value(warnKey{}).(func(string)); ok {
		tell(text)
	}
}
