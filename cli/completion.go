// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	ucli "github.com/urfave/cli/v2"
)

// The scripts ask the program itself, so that they are never behind it.
var completions = map[string]string{
	"bash": `# In ~/.bashrc: eval "$(weft completion bash)"
_weft_complete() {
	local cur="${COMP_WORDS[COMP_CWORD]}" words
	words=("${COMP_WORDS[@]:0:COMP_CWORD}")
	if [[ "$cur" == -* ]]; then words+=("$cur"); fi
	COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "$cur"))
}
complete -o bashdefault -o default -F _weft_complete weft consul
`,
	"zsh": `#compdef weft consul
# In ~/.zshrc, after compinit: eval "$(weft completion zsh)"
_weft_complete() {
	local -a found ask
	ask=("${(@)words[1,CURRENT-1]}")
	if [[ "$words[CURRENT]" == -* ]]; then ask+=("$words[CURRENT]"); fi
	found=("${(@f)$(_CLI_ZSH_AUTOCOMPLETE_HACK=1 "${ask[@]}" --generate-bash-completion 2>/dev/null)}")
	if [[ -n "$found[1]" ]]; then _describe 'weft' found; else _files; fi
}
compdef _weft_complete weft consul
`,
	"fish": `# In ~/.config/fish/completions/weft.fish: weft completion fish | source
function __weft_complete
	set -l ask (commandline -opc)
	set -l cur (commandline -ct)
	if string match -q -- '-*' $cur
		set -a ask $cur
	end
	$ask --generate-bash-completion 2>/dev/null
end
complete -c weft -a '(__weft_complete)'
complete -c consul -a '(__weft_complete)'
`,
}

func completionCommand(env Env) *ucli.Command {
	shells := slices.Sorted(maps.Keys(completions))
	return &ucli.Command{
		Name: "completion", Usage: "print the script that completes commands and flags in bash, zsh or fish", ArgsUsage: strings.Join(shells, "|"),
		BashComplete: func(*ucli.Context) {
			for _, s := range shells {
				fmt.Fprintln(env.Stdout, s)
			}
		},
		Action: func(c *ucli.Context) error {
			script, ok := completions[c.Args().First()]
			if !ok || c.NArg() != 1 {
				return usage("name the shell: %s", strings.Join(shells, ", "))
			}
			fmt.Fprint(env.Stdout, script)
			return nil
		},
	}
}
