// Command faas is Podsnap: the platform (faas server) and the tool to use it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/spf13/cobra"
)

// Exit codes, beside 0.
const (
	exitFault    = 1
	exitUsage    = 2
	exitNotFound = 3
	exitAuth     = 4
	exitTimeout  = 5
)

func main() {
	runtime.MemProfileRate = 0 // nobody reads it, and its tables are a megabyte
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		cancel(&interrupted{<-signals})
		<-signals // who asks twice does not want to wait
		os.Exit(exitFault)
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// interrupted is the end of a command's context by a signal.
type interrupted struct{ os.Signal }

func (i *interrupted) Error() string { return i.Signal.String() }

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(append([]string{}, args...)) // nil would be those of the process
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.InitDefaultCompletionCmd(args...) // it keeps the output that is set now
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.Example = "  source <(faas completion bash)                                  # for this shell\n  faas completion bash | sudo tee /etc/bash_completion.d/faas      # for those to come\n  faas completion zsh > \"${fpath[1]}/_faas\""
			c.Args, c.RunE = func(c *cobra.Command, args []string) error { return asUsage(member(c, args)) }, func(c *cobra.Command, _ []string) error { return c.Help() }
		}
	}
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "faas: %v\n", err)
	return exitCode(err)
}

// usageError is a call that can't be meant.
type usageError struct{ error }

func usagef(format string, a ...any) error { return usageError{fmt.Errorf(format, a...)} }

func exitCode(err error) int {
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	switch openfaas.StatusOf(err) {
	case 404:
		return exitNotFound
	case 401, 403:
		return exitAuth
	case 408, 504:
		return exitTimeout
	case 400, 409, 413, 422:
		return exitFault
	}
	if n, ok := errors.AsType[net.Error](err); ok && n.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return exitTimeout
	}
	return exitFault
}

func newRoot() *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use:   "faas",
		Short: "Functions on your own machines: build, deploy, call, scale to zero and back",
		Long: `Podsnap runs functions in containers on your own machines and scales them,
to zero and back. ` + "`faas server`" + ` is the platform; the other commands talk to it.`,
		Example: `  faas new hello --lang go      # a function from a template
  faas up -f stack.yaml         # build, push and deploy it
  echo hi | faas invoke hello   # call it`,
		SilenceUsage: true, SilenceErrors: true, DisableFlagsInUseLine: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return o.check(cmd) },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	f := root.PersistentFlags()
	f.StringVarP(&o.gateway, "gateway", "g", "", "gateway URL (default: stack.yaml's, then $OPENFAAS_URL, then http://127.0.0.1:8080)")
	f.StringVarP(&o.output, "output", "o", "", "output format: json, yaml, wide or name")
	f.BoolVarP(&o.json, "json", "j", false, "the same as --output json")
	f.DurationVar(&o.timeout, "timeout", 0, "give up after this time (default: 60s; calls and logs have no limit of their own)")
	f.BoolVar(&o.insecure, "tls-no-verify", false, "do not check the gateway's certificate")
	root.AddGroup(
		&cobra.Group{ID: "make", Title: "Make functions:"},
		&cobra.Group{ID: "use", Title: "Use functions:"},
		&cobra.Group{ID: "platform", Title: "The platform:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("make", o.newCmd(), o.templateCmd(), o.buildCmd(), o.pushCmd(), o.deployCmd(), o.upCmd(), o.publishCmd(), o.removeCmd(), o.secretCmd(), o.namespaceCmd())
	add("use", o.listCmd(), o.describeCmd(), o.invokeCmd(), o.logsCmd(), o.scaleCmd(), o.simulateCmd(), o.readyCmd(), o.queueCmd(), o.whyCmd())
	add("platform", o.serverCmd(), o.agentCmd(), o.tokenCmd(), o.kubeconfigCmd(), o.nodeCmd(), o.loginCmd(), o.logoutCmd(), o.statusCmd(), o.versionCmd())
	root.AddCommand(o.storeChildCmd())
	root.InitDefaultHelpCmd()
	finish(root, o)
	return root
}

// finish does for every command what would be forgotten on one: wrong arguments
// are usage errors (exit code 2), a group of commands names what it has when
// asked for what it has not, and flags are completed.
func finish(c *cobra.Command, o *options) {
	if c.HasSubCommands() && !c.Runnable() {
		c.Args = member
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usagef("%w\nusage: %s", err, c.UseLine())
			}
			return nil
		}
	}
	complete := func(flag string, f cobra.CompletionFunc) {
		if c.Flag(flag) != nil {
			_ = c.RegisterFlagCompletionFunc(flag, f) // an error is a flag that has one
		}
	}
	complete("namespace", o.namespaceNames)
	if !c.HasParent() {
		complete("output", cobra.FixedCompletions([]string{"json", "yaml", "wide", "name"}, cobra.ShellCompDirectiveNoFileComp))
	}
	for _, s := range c.Commands() {
		finish(s, o)
	}
}

func asUsage(err error) error {
	if err == nil {
		return nil
	}
	return usageError{err}
}

// member refuses what is not a command of a group.
func member(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	msg := fmt.Sprintf("%s has no command %q", c.CommandPath(), args[0])
	if c.SuggestionsMinimumDistance <= 0 {
		c.SuggestionsMinimumDistance = 2
	}
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		return fmt.Errorf("%s; did you mean %s?", msg, strings.Join(near, " or "))
	}
	return fmt.Errorf("%s; `%s --help` shows those that are", msg, c.CommandPath())
}
