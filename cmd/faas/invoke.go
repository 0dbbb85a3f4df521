package main

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func (o *options) invokeCmd() *cobra.Command {
	var ns, method, contentType, path, callback string
	var async bool
	var headers, query []string
	cmd := &cobra.Command{
		Use: "invoke NAME", Short: "Call a function with standard input as the request's body",
		Long: `Calls a function. Standard input is the request's body and is streamed, the
answer's body goes to standard output as it comes. An answer of 400 and above
is a failure. With --async the call is queued, and its id is printed.`,
		Example: `  echo '# hi' | faas invoke markdown
  faas invoke thumbnail < photo.png > small.png
  faas invoke hello -a < request.json
  faas invoke hello --method GET --path /version --query verbose=1`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: o.functionNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if callback != "" && !async {
				return usagef("--callback is for calls with --async: the answer of this one comes here")
			}
			ctx, cancel := o.long(cmd.Context())
			defer cancel()
			c, err := o.client("")
			if err != nil {
				return err
			}
			in := openfaas.Invocation{Namespace: ns, Name: args[0], Method: strings.ToUpper(method), Path: path, Async: async, Header: http.Header{}}
			in.Header.Set("Content-Type", contentType)
			in.Header.Set("User-Agent", "faas/"+version())
			if callback != "" {
				in.Header.Set(openfaas.HeaderCallbackURL, callback)
			}
			if err := addHeaders(in.Header, headers, !cmd.Flags().Changed("content-type")); err != nil {
				return err
			}
			if len(query) > 0 {
				in.Query = url.Values{}
				for _, q := range query {
					k, v, _ := strings.Cut(q, "=")
					in.Query.Add(k, v)
				}
			}
			if in.Method != http.MethodGet && in.Method != http.MethodHead {
				in.Body = stdin(cmd, "the request")
			}
			resp, err := c.Invoke(ctx, in)
			if err != nil {
				return o.explain(err, c)
			}
			defer resp.Body.Close()
			if async && resp.StatusCode == http.StatusAccepted {
				say(cmd, "accepted, call id:")
				fmt.Fprintln(cmd.OutOrStdout(), resp.Header.Get(openfaas.HeaderCallID))
				return nil
			}
			if resp.StatusCode >= 400 {
				text, _ := io.ReadAll(io.LimitReader(resp.Body, 16<<10))
				var err error = &openfaas.Error{Op: "invoke " + args[0], Status: resp.StatusCode, Text: strings.TrimSpace(string(text))}
				if id := resp.Header.Get(openfaas.HeaderCallID); id != "" {
					err = fmt.Errorf("%w [call %s]", err, id)
				}
				if resp.Header.Get(openfaas.HeaderInternal) != "" { // not the function's own answer
					err = notFound(err, args[0], ns)
				}
				return err
			}
			_, err = io.Copy(cmd.OutOrStdout(), resp.Body)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVarP(&ns, "namespace", "n", "", "namespace")
	f.BoolVarP(&async, "async", "a", false, "queue the call and print its id")
	f.StringVarP(&method, "method", "m", http.MethodPost, "HTTP method")
	f.StringVar(&contentType, "content-type", "text/plain", "Content-Type of the body")
	f.StringVar(&path, "path", "", "path below the function")
	f.StringVar(&callback, "callback", "", "URL to which an asynchronous call's answer is posted")
	f.StringArrayVarP(&headers, "header", "H", nil, "header Name=value, may be repeated")
	f.StringArrayVar(&query, "query", nil, "query key=value, may be repeated")
	return cmd
}

// addHeaders puts "Name=value" and "Name: value" into h. What the user says of
// User-Agent and, with anyType, Content-Type replaces what is there.
func addHeaders(h http.Header, in []string, anyType bool) error {
	said := http.Header{}
	for _, s := range in {
		k, v, ok := strings.Cut(s, "=")
		if i := strings.Index(s, ":"); i > 0 && (!ok || i < len(k)) {
			k, v, ok = s[:i], strings.TrimSpace(s[i+1:]), true
		}
		if !ok || k == "" || strings.ContainsAny(k, " \t\r\n:") || strings.ContainsAny(v, "\r\n") {
			return usagef("--header %q: it must be Name=value", s)
		}
		said.Add(k, v)
	}
	if said.Get("Content-Type") != "" && !anyType {
		return usagef("--content-type and a header Content-Type exclude one another")
	}
	maps.Copy(h, said)
	return nil
}

// stdin is standard input. Who sits before a terminal is told what it waits for.
func stdin(cmd *cobra.Command, what string) io.Reader {
	in := cmd.InOrStdin()
	if f, ok := in.(*os.File); ok {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			say(cmd, "reading %s from the terminal, end it with ctrl-D", what)
		}
	}
	return in
}
