"""What all packages share: checks of arguments, output folders, options, registries, processes, files of strangers."""
